"""Files: written whole or not at all, and read with errors that say where data comes from."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coe.errors import DatasetError, install_hint

_TEXTS = ("string", "large_string")


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file beside `path`, then puts it in place in one step.

    A reader sees the old file or the new one, never a half; if `write` fails the old one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def parquet() -> ModuleType:
    """The parquet module of pyarrow, which is only needed where tables are read or written."""
    try:
        import pyarrow.parquet
    except ImportError:
        hint = install_hint("eval")
        raise DatasetError(f"tables of outcomes are parquet files: {hint}") from None
    module: ModuleType = pyarrow.parquet
    return module


def read_parquet(
    file: Path, required: Sequence[str], source: str, optional: Sequence[str] | None = None
) -> Any:
    """A pyarrow table of the required columns and those of the optional ones that are there.

    `source` says where such a file is from; `optional` None reads every column. Texts that
    repeat come as dictionaries, which is what makes long tables quick to read.
    """
    reader = parquet()
    if not file.is_file():
        raise DatasetError(f"{file}: no such file; {source}")
    try:
        schema = reader.read_schema(file)
        missing = [name for name in required if name not in schema.names]
        if missing:
            has = ", ".join(schema.names)
            raise DatasetError(f"{file}: has no column {missing[0]!r} (it has {has}); {source}")
        wanted = schema.names if optional is None else [*required, *optional]
        columns = [name for name in wanted if name in schema.names]
        texts = [name for name in columns if str(schema.field(name).type) in _TEXTS]
        return reader.read_table(file, columns=columns, read_dictionary=texts)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file}: cannot be read as parquet ({error}); {source}") from None


def objects(column: Any) -> NDArray[np.object_]:
    """The values of a pyarrow column, None where null; each text of a dictionary made once."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        return np.array(column.to_pylist(), dtype=object)
    coded = column.unify_dictionaries().combine_chunks()
    values = np.array([*coded.dictionary.to_pylist(), None], dtype=object)
    nowhere = len(values) - 1
    chosen: NDArray[np.object_] = values[
        coded.indices.fill_null(nowhere).to_numpy(zero_copy_only=False)
    ]
    return chosen


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
