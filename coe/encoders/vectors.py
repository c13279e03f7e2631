"""What every encoder does the same: bound the text before, normalise the vectors after."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]

HEAD_BYTES = 4096
TAIL_BYTES = 2048


def clip(text: str, head: int = HEAD_BYTES, tail: int = TAIL_BYTES) -> str:
    """The text's first and last bytes as UTF-8, so that the time to encode it is bounded.

    Bytes and not characters: where each character is a token, as in Chinese, it takes three
    bytes. Both ends are kept because an instruction stands at either. Lone surrogates, which
    JSON can carry and tokenizers refuse, become question marks.
    """
    # A character is a byte at least: no more of them than this are ever looked at.
    first, last = _bytes(text[: head + tail + 1]), _bytes(text[-tail:])
    if len(first) <= head + tail:
        return first.decode("utf-8")
    return f"{_whole(first[:head])} {_whole(last[-tail:])}"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _whole(some: bytes) -> str:
    """Without the halves of characters that a cut leaves at either end."""
    return some.decode("utf-8", "ignore")


def unit_rows(rows: FloatArray) -> FloatArray:
    """The rows as float32 of length one; a zero row stays zero."""
    rows = rows.astype(np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    units: FloatArray = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return units
