"""Any sentence-transformers model, by hub name or folder. Imports torch when it is built."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coe.encoders.vectors import FloatArray, clip, unit_rows
from coe.errors import ConfigError, install_hint


class SentenceTransformerEncoder:
    """Meant for fitting; on the serving path it costs tens of milliseconds a query."""

    def __init__(self, name_or_path: str, device: str = "cpu") -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise ConfigError(
                f"this encoder needs sentence-transformers: {install_hint('encoders')}",
                key="encoder",
            ) from None
        try:
            self._model = SentenceTransformer(name_or_path, device=device)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{name_or_path!r} cannot be loaded ({error}); name a hub model or a folder "
                "that sentence-transformers saved",
                key="encoder.model",
            ) from None
        self._name = name_or_path
        self._dim = int(self._model.get_embedding_dimension() or 0)

    @property
    def name(self) -> str:
        return self._name

    @property
    def dim(self) -> int:
        return self._dim

    def encode(self, texts: Sequence[str]) -> FloatArray:
        rows = np.zeros((len(texts), self._dim), dtype=np.float32)
        known = [i for i, text in enumerate(texts) if text.strip()]
        if known:
            clipped = [clip(texts[i]) for i in known]
            rows[known] = self._model.encode(clipped, show_progress_bar=False)
        return unit_rows(rows)
