"""What every encoder does the same: bound the text before, normalise the vectors after."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]

HEAD_CHARS = 4096
TAIL_CHARS = 2048


def clip(text: str, head: int = HEAD_CHARS, tail: int = TAIL_CHARS) -> str:
    """The text's first and last characters, so that the time to encode it is bounded.

    Both ends are kept because an instruction stands at either. Lone surrogates, which JSON can
    carry and tokenizers refuse, become question marks.
    """
    if len(text) > head + tail:
        text = f"{text[:head]} {text[-tail:]}"
    return text.encode("utf-8", "replace").decode("utf-8")


def unit_rows(rows: FloatArray) -> FloatArray:
    """The rows as float32 of length one; a zero row stays zero."""
    rows = rows.astype(np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    units: FloatArray = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return units
