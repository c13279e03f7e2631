"""How large a model will be in memory, told from its files without loading it."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

_ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_MAX_HEADER_BYTES = 100_000_000


def weights_bytes(folder: Path, dtype: str) -> int:
    """Bytes the weights in `folder` occupy once loaded as `dtype`; "auto" keeps the files' own.

    Weights only: activations and the KV cache of running requests come on top. Raises
    `ValueError` if the folder holds no readable safetensors.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(
            f"{folder} has no *.safetensors; point `path` at a folder that save_pretrained wrote"
        )
    return sum(_file_bytes(file, dtype) for file in files)


def _file_bytes(file: Path, dtype: str) -> int:
    with file.open("rb") as stream:
        n_header_bytes = int.from_bytes(stream.read(8), "little")
        if not 2 <= n_header_bytes <= _MAX_HEADER_BYTES:
            raise ValueError(f"{file} is not a safetensors file")
        try:
            tensors = json.loads(stream.read(n_header_bytes))
            tensors.pop("__metadata__", None)
            return sum(
                prod(tensor["shape"]) * _item_bytes(tensor["dtype"], dtype)
                for tensor in tensors.values()
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{file} has a broken safetensors header") from None


def _item_bytes(stored: str, dtype: str) -> int:
    # Only floating point is converted on loading; whole numbers stay as they are.
    is_float = stored.startswith(("F", "BF"))
    return _DTYPE_BYTES[dtype] if is_float and dtype in _DTYPE_BYTES else _ITEM_BYTES[stored]
