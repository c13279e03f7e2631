"""Rows of questions out of files: JSON lines, JSON, CSV or parquet, in one file or a folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coe.errors import DatasetError
from coe.eval.files import read_parquet

_SUFFIXES = (".parquet", ".jsonl", ".json", ".csv")
_ALL = "questions"
"""The file that holds all splits, which its column `split` tells apart."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row with where it stands, for complaints."""

    fields: Mapping[str, Any]
    file: Path
    number: int
    """From 1."""

    def complaint(self, problem: str) -> DatasetError:
        return DatasetError(f"{self.file}: row {self.number}: {problem}")

    def first(self, names: Sequence[str]) -> Any:
        """The value of the first of these columns that the row has one in; else None."""
        for name in names:
            value = self.fields.get(name)
            if value is not None and value != "":
                return value
        return None


def read_rows(source: Path, stems: Sequence[str], split: str, fix: str) -> list[Row]:
    """The rows of one split.

    In a folder `<stem>_<split>`, `<split>`, `<split>-*` and `questions` are looked for, in this
    order and with any ending. A file that has no column `split` is all of the split. `fix` says
    where such data comes from.
    """
    if not source.exists():
        raise DatasetError(f"{source}: no such file or folder; {fix}")
    files = [source] if source.is_file() else _files(source, stems, split, fix)
    rows = [row for file in files for row in _read(file, fix)]
    if rows and all("split" in row.fields for row in rows):
        known = sorted({str(row.fields["split"]) for row in rows})
        rows = [row for row in rows if row.fields["split"] == split]
        if not rows:
            raise DatasetError(f"{source}: has no split {split!r} (it has {', '.join(known)})")
    if not rows:
        raise DatasetError(f"{source}: holds no question; {fix}")
    return rows


def splits_of(source: Path, stems: Sequence[str]) -> tuple[str, ...]:
    """The splits that files of a folder are named by."""
    if not source.is_dir():
        return ()
    found = {file.stem.removeprefix(f"{s}_") for s in stems for file in _known(source, f"{s}_*")}
    found |= {file.stem.partition("-")[0] for file in _known(source, "*-*-of-*")}
    return tuple(sorted(found))


def _files(folder: Path, stems: Sequence[str], split: str, fix: str) -> list[Path]:
    for pattern in (*(f"{stem}_{split}" for stem in stems), split, f"{split}-*", _ALL):
        for place in (folder, folder / "data"):
            found = sorted(_known(place, pattern))
            if found:
                return found
    known = splits_of(folder, stems)
    if known:
        raise DatasetError(f"{folder}: has no split {split!r} (it has {', '.join(known)})")
    looked = f"{stems[0]}_{split}.parquet, {split}.jsonl or {_ALL}.jsonl"
    raise DatasetError(f"{folder}: holds no {looked} and the like; {fix}")


def _known(folder: Path, pattern: str) -> Iterator[Path]:
    for suffix in _SUFFIXES:
        yield from folder.glob(f"{pattern}{suffix}")


def _read(file: Path, fix: str) -> Iterator[Row]:
    if file.suffix == ".parquet":
        rows: Iterable[Any] = read_parquet(file, (), fix).to_pylist()
    elif file.suffix in _SUFFIXES:
        rows = _text_rows(file)
    else:
        raise DatasetError(f"{file}: ends in none of {', '.join(_SUFFIXES)}")
    for number, fields in enumerate(rows, start=1):
        if not isinstance(fields, dict):
            raise DatasetError(f"{file}: row {number}: is no object with fields, but {fields!r}")
        yield Row(fields, file, number)


def _text_rows(file: Path) -> Iterator[Any]:
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: cannot be read as UTF-8 text: {error}") from None
    if file.suffix == ".csv":
        yield from csv.DictReader(text.splitlines())
    elif file.suffix == ".json":
        yield from _json(text, file, 1, list)
    else:
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield _json(line, file, number, dict)


def _json(text: str, file: Path, number: int, wanted: type[Any]) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{file}: line {number}: is not JSON: {error}") from None
    if not isinstance(value, wanted):
        raise DatasetError(f"{file}: line {number}: is no JSON {_JSON_NAMES[wanted]}")
    return value


_JSON_NAMES: Mapping[type[Any], str] = {list: "array", dict: "object"}
