"""Collections in BEIR form, read from folders, with complaints that name file and row.

Two forms: that of the benchmark (`corpus.jsonl`, `queries.jsonl`, `qrels/SPLIT.tsv`), where a
query's split is the file that judges it, and the same as three parquet tables (`corpus`,
`queries` with a column `split`, `qrels`). Documents without text are kept, as the benchmark keeps
them; a query that nothing answers is left out, because it has no nDCG.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from coe.errors import DatasetError, nearest
from coe.eval.files import read_parquet
from coe.retrieval.collection import Collection, Document
from coe.types import Query

PREFIX = "beir_"
"""Of a folder's name, which is not part of the collection's."""
BEIR_SOURCE = (
    "a collection is a folder with corpus, queries and qrels in BEIR form; see docs/retrieval.md"
)


DEFAULT_SPLIT = "test"
"""Of a query that neither a column nor a file says the split of."""
_KEYS = {"corpus": "doc_id", "queries": "query_id"}
_OPTIONAL = ("title", "split")
_QRELS_HEADER = ("query-id", "corpus-id", "score")


@dataclass(frozen=True, slots=True)
class _Row:
    """One record with the place it was read from."""

    values: Mapping[str, Any]
    key: str
    place: str

    @property
    def id(self) -> str:
        return self.text(self.key)

    def text(self, key: str, is_needed: bool = True) -> str:
        """Raises `DatasetError` unless it is a text, of at least one character where needed."""
        value = self.values.get(key)
        if value is None and not is_needed:
            return ""
        if not isinstance(value, str) or (is_needed and not value.strip()):
            need = "every row needs it as text" if is_needed else "it must be text"
            raise DatasetError(f"{self.place}: `{key}` is {_shown(value)}; {need}")
        return value


@dataclass(frozen=True, slots=True)
class _Judgement:
    query_id: str
    document_id: str
    relevance: int
    split: str | None
    """None where the query says it."""
    place: str


def load_collections(folder: Path) -> list[Collection]:
    """The collection in a folder, or those in its sub-folders by name."""
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; {BEIR_SOURCE}")
    if _is_collection(folder):
        return [load_collection(folder)]
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and _is_collection(path))
    if not inside:
        raise DatasetError(f"{folder}: holds no collection; {BEIR_SOURCE}")
    collections = [load_collection(path) for path in inside]
    names = [collection.name for collection in collections]
    for name in names:
        if names.count(name) > 1:
            raise DatasetError(f"{folder}: two collections are named {name!r}; rename a folder")
    return collections


def load_collection(folder: Path) -> Collection:
    """One collection, whole. Raises `DatasetError` naming file, row and remedy."""
    name = folder.resolve().name.removeprefix(PREFIX)
    documents: dict[str, Document] = {}
    queries: dict[str, tuple[Query, str | None]] = {}
    for row in _by_id(_records(folder, "corpus", ("title", "text"))):
        texts = row.text("text", is_needed=False), row.text("title", is_needed=False)
        documents[row.id] = Document(row.id, *texts)
    for row in _by_id(_records(folder, "queries", ("text", "split"))):
        split = row.text("split", is_needed=False) or None
        queries[row.id] = Query(row.text("text"), row.id, name), split
    judged = _judged(_judgements(folder), documents, queries)
    if not judged:
        raise DatasetError(f"{folder}: no query has a relevant document; look at its qrels")
    kept = [(query, *judged[id_]) for id_, (query, _) in queries.items() if id_ in judged]
    return Collection(
        name,
        tuple(documents.values()),
        tuple(query for query, _, _ in kept),
        tuple(split for _, split, _ in kept),
        {query.id: relevant for query, _, relevant in kept},
    )


def _judged(
    judgements: Iterable[_Judgement],
    documents: Mapping[str, Document],
    queries: Mapping[str, tuple[Query, str | None]],
) -> dict[str, tuple[str, dict[str, int]]]:
    """Query id → split and relevant documents, each above 0."""
    judged: dict[str, tuple[str, dict[str, int]]] = {}
    seen: dict[tuple[str, str], str] = {}
    for told in judgements:
        if told.query_id not in queries:
            raise DatasetError(_missing(told, "query", told.query_id, queries))
        if told.document_id not in documents:
            raise DatasetError(_missing(told, "document", told.document_id, documents))
        pair = (told.query_id, told.document_id)
        if pair in seen:
            raise DatasetError(
                f"{told.place}: query {pair[0]!r} and document {pair[1]!r} were judged at "
                f"{seen[pair]} already; keep one of the two"
            )
        seen[pair] = told.place
        if told.relevance <= 0:
            continue
        split = told.split or queries[told.query_id][1] or DEFAULT_SPLIT
        before, relevant = judged.setdefault(told.query_id, (split, {}))
        if before != split:
            raise DatasetError(
                f"{told.place}: query {told.query_id!r} is judged in the splits {before!r} and "
                f"{split!r}; keep it in one, or what is tested was trained on"
            )
        relevant[told.document_id] = told.relevance
    return judged


def _judgements(folder: Path) -> Iterator[_Judgement]:
    if (folder / "qrels.parquet").is_file():
        for row in _records(folder, "qrels", ("doc_id", "relevance"), key="query_id"):
            yield _judgement(row, row.values.get("query_id"), row.values.get("doc_id"), None)
        return
    files = sorted((folder / "qrels").glob("*.tsv"))
    if not files:
        raise DatasetError(f"{folder / 'qrels'}: holds no .tsv file; {BEIR_SOURCE}")
    for file in files:
        for row in _tsv_rows(file):
            values = row.values
            yield _judgement(row, values["query-id"], values["corpus-id"], file.stem)


def _judgement(row: _Row, query_id: object, document_id: object, split: str | None) -> _Judgement:
    given = row.values.get("relevance", row.values.get("score"))
    try:
        relevance = int(given) if isinstance(given, str) else given
    except ValueError:
        relevance = None
    if not isinstance(relevance, int):
        raise DatasetError(f"{row.place}: relevance is {_shown(given)}; give a whole number")
    for what, value in (("query", query_id), ("document", document_id)):
        if not isinstance(value, str) or not value:
            raise DatasetError(
                f"{row.place}: the id of the {what} is {_shown(value)}; give it as text"
            )
    return _Judgement(str(query_id), str(document_id), relevance, split, row.place)


def _by_id(rows: Iterable[_Row]) -> Iterator[_Row]:
    """The rows as they come; the second of one id raises."""
    places: dict[str, str] = {}
    for row in rows:
        if row.id in places:
            raise DatasetError(
                f"{row.place}: the id {row.id!r} was given at {places[row.id]} already; ids must "
                "be unique, so delete or rename one"
            )
        places[row.id] = row.place
        yield row


def _records(folder: Path, name: str, columns: Sequence[str], key: str = "") -> Iterator[_Row]:
    """The rows of a table, parquet where there is one, else JSON lines."""
    file = folder / f"{name}.parquet"
    key = key or _KEYS[name]
    if not file.is_file():
        yield from _json_rows(folder / f"{name}.jsonl")
        return
    required = [column for column in (key, *columns) if column not in _OPTIONAL]
    rows = read_parquet(file, required, BEIR_SOURCE, optional=_OPTIONAL).to_pylist()
    for number, values in enumerate(rows):
        yield _Row(values, key, f"{file}: row {number}")


def _json_rows(file: Path) -> Iterator[_Row]:
    if not file.is_file():
        raise DatasetError(f"{file}: no such file; {BEIR_SOURCE}")
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        place = f"{file}: line {number}"
        if not line.strip():
            continue
        try:
            values = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise DatasetError(f"{place}: is no JSON ({error}); mend or delete it") from None
        if not isinstance(values, dict):
            raise DatasetError(f"{place}: must be a JSON object with `_id` and `text`")
        yield _Row(values, "_id", place)


def _tsv_rows(file: Path) -> Iterator[_Row]:
    lines = file.read_text(encoding="utf-8").splitlines()
    header = tuple(lines[0].split("\t")) if lines else ()
    if header != _QRELS_HEADER:
        raise DatasetError(
            f"{file}: line 1: the header is {list(header)}; it must be {list(_QRELS_HEADER)}, "
            "separated by tabs"
        )
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        place = f"{file}: line {number}"
        if len(cells) != len(header):
            raise DatasetError(f"{place}: has {len(cells)} cells and needs {len(header)}; mend it")
        yield _Row(dict(zip(header, cells, strict=True)), "query-id", place)


def _missing(told: _Judgement, what: str, id_: str, known: Iterable[str]) -> str:
    guess = nearest(id_, known) if id_ else None
    hint = f", did you mean {guess!r}?" if guess else ""
    return (
        f"{told.place}: {what} {id_!r} is judged and not in the collection{hint}; add it, or "
        "delete the row"
    )


def _is_collection(folder: Path) -> bool:
    return any((folder / f"corpus.{kind}").is_file() for kind in ("parquet", "jsonl"))


def _shown(value: object) -> str:
    return "missing" if value is None else repr(value)[:60]
