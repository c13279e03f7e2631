"""MMLU-Pro's published result archives as the three tables that `load_mmlu_pro` reads.

Letters are read anew from the stored texts, since the archives hold drawn letters where the authors
could read none. Questions are split by the hash of their stem, so that equal stems share a split.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coe.errors import DatasetError
from coe.eval.answers import read_letter
from coe.eval.files import parquet, replace_file

MMLU_PRO_LISTING = (
    "https://api.github.com/repos/TIGER-AI-Lab/MMLU-Pro/contents/eval_results?ref=main"
)
_NAME = re.compile(r"(?:model_outputs_)?(.+?)(?:_\d+shots?)?(?:\.json)?\.zip")
_SIZE = re.compile(r"(?<![\dxX.])(\d+(?:\.\d+)?)[bB](?![a-zA-Z])")
_NEEDED = ("question_id", "question", "options", "answer", "category")
_TEXTS = ("model_outputs", "generated_text", "model_output")
_TRAIN_SHARE = 0.35
_SMALL_B = 10.0
_MOST_BYTES = 4 << 30
_NO_RECORD = "no_response"


@dataclass(slots=True)
class Tables:
    """Rows until now, by name of the column."""

    questions: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    outcomes: list[Mapping[str, Any]] = field(default_factory=list)
    revised: set[int] = field(default_factory=set)
    """Questions whose text or key differs between archives; they are left out."""


def build_mmlu_pro(archives: Sequence[Path], folder: Path) -> tuple[int, int]:
    """Writes the tables; how many experts and questions they have.

    Raises `DatasetError` naming the archive and the record; nothing is written then.
    """
    tables = Tables()
    models = [_add(tables, file) for file in sorted(archives)]
    twice = {model for model in models if models.count(model) > 1}
    if twice:
        raise DatasetError(f"two archives are of {min(twice)!r}; keep one in the folder")
    kept = {id_: q for id_, q in tables.questions.items() if id_ not in tables.revised}
    outcomes = [row for row in tables.outcomes if row["question_id"] in kept]
    if not outcomes:
        raise DatasetError(f"{folder}: no archive holds an answer to a question")
    counts = dict.fromkeys(models, 0)
    for row in outcomes:
        counts[row["model"]] += row["extract"] != _NO_RECORD
    written = {
        "questions": list(kept.values()),
        "outcomes": outcomes,
        "models": [_model(model, counts[model] == len(kept)) for model in models],
    }
    for name, rows in written.items():
        _write(folder / f"{name}.parquet", rows)
    return len(models), len(kept)


def _add(tables: Tables, file: Path) -> str:
    match = _NAME.fullmatch(file.name)
    model = match[1] if match else file.stem
    seen: set[int] = set()
    for number, record in enumerate(_records(file), start=1):
        missing = [key for key in _NEEDED if key not in record]
        if missing:
            raise DatasetError(f"{file}: record {number}: has no {missing[0]!r}")
        question_id = int(record["question_id"])
        if question_id in seen:
            continue  # Some archives repeat a record; the first counts.
        seen.add(question_id)
        question = _question(record)
        if tables.questions.setdefault(question_id, question) != question:
            tables.revised.add(question_id)
        tables.outcomes.append(_outcome(record, question_id, model))
    return model


def _records(file: Path) -> Iterable[Mapping[str, Any]]:
    """Of the one JSON file, or of all of them, in an archive."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = [
                member
                for member in archive.infolist()
                if member.filename.endswith(".json") and "__MACOSX" not in member.filename
            ]
            if sum(member.file_size for member in members) > _MOST_BYTES:
                raise DatasetError(f"{file}: is larger than {_MOST_BYTES >> 30} GiB unpacked")
            contents = [json.loads(archive.read(member)) for member in members]
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise DatasetError(f"{file}: is no archive of results ({error}); pull it again") from None
    for content in contents:
        if isinstance(content, list):
            yield from (record for record in content if isinstance(record, dict))


def _question(record: Mapping[str, Any]) -> Mapping[str, Any]:
    stem = re.sub(r"\W+", "", str(record["question"])).casefold()
    part = int.from_bytes(hashlib.sha256(stem.encode()).digest()[:4], "big") / 2**32
    return {
        "question_id": int(record["question_id"]),
        "category": str(record["category"]),
        "question": str(record["question"]),
        "options": [str(option) for option in record["options"]],
        "answer": str(record["answer"]),
        "split": "train" if part < _TRAIN_SHARE else "test",
    }


def _outcome(record: Mapping[str, Any], question_id: int, model: str) -> Mapping[str, Any]:
    text = next((str(record[key]) for key in _TEXTS if record.get(key)), None)
    if text is None:
        pred, level, n_tokens = None, _NO_RECORD, 0
    else:
        read = read_letter(text, [str(option) for option in record["options"]])
        pred, level, n_tokens = read.letter, read.level, -(-len(text) // 4)
    return {
        "question_id": question_id,
        "model": model,
        "pred": pred,
        "correct": pred is not None and pred == record["answer"],
        "extract": level,
        "output_tokens_est": n_tokens,
    }


def _model(model: str, is_complete: bool) -> Mapping[str, Any]:
    """Parameters are taken from the name where that says them; of mixtures it does not."""
    size = _SIZE.search(model)
    params_b = float(size[1]) if size else None
    return {
        "model": model,
        "complete": is_complete,
        "small_pool": params_b is not None and params_b <= _SMALL_B,
        "params_active_b": params_b,
    }


def _write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa

    writer = parquet()
    table = pa.Table.from_pylist([dict(row) for row in rows])
    replace_file(file, lambda part: writer.write_table(table, part, compression="zstd"))
