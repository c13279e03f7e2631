"""Embeddings that came with a data set, served as if they were computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from coe.encoders.vectors import FloatArray, unit_rows
from coe.errors import DatasetError


class RecordedEncoder:
    """Looks each text up. Raises `DatasetError` for a text that was not recorded."""

    def __init__(self, name: str, vectors_by_text: Mapping[str, FloatArray]) -> None:
        if not vectors_by_text:
            raise DatasetError(f"recorded embeddings {name!r} hold no vector")
        try:
            vectors = np.stack(list(vectors_by_text.values()))
        except ValueError:
            raise DatasetError(
                f"recorded embeddings {name!r} have vectors of several lengths; "
                "all must come from one encoder"
            ) from None
        self._rows = {text: i for i, text in enumerate(vectors_by_text)}
        self._vectors = unit_rows(vectors)
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    @property
    def dim(self) -> int:
        return int(self._vectors.shape[1])

    def encode(self, texts: Sequence[str]) -> FloatArray:
        try:
            rows = [self._rows[text] for text in texts]
        except KeyError as error:
            raise DatasetError(
                f"{self._name!r} has no recorded embedding of {str(error.args[0])[:80]!r}; "
                "encode new texts with the encoder that made the recording"
            ) from None
        selected: FloatArray = self._vectors[np.array(rows, dtype=np.intp)]
        return selected
