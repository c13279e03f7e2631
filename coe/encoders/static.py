"""The static table: one vector per token, and a text is their weighted mean.

Tables are in model2vec's format. They are read here with `tokenizers` and `safetensors` alone:
model2vec would import joblib and the hub client, for more than twice the start-up time and 24 MB
(docs/adr/0001-default-encoder.md), and sets truncation on the shared tokenizer in every call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load
from tokenizers import Tokenizer

from coe.encoders.vectors import FloatArray, clip, unit_rows
from coe.encoders.wordpieces import TokenIds
from coe.errors import ConfigError

DEFAULT_TABLE = Path(__file__).parent / "minilm-static"


class StaticEncoder:
    """Serves a static embedding table. Immutable, so threads may share it.

    Word order is not seen. Of a long text only the first 4,096 and the last 2,048 bytes are
    read.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        tokenizer, vocabulary = _read_tokenizer(folder)
        self._table, weights, digest = _read_table(folder / "model.safetensors")
        if not len(vocabulary) == len(self._table) == len(weights):
            raise ConfigError(
                f"{len(self._table)} vectors for a vocabulary of {len(vocabulary)}; make the table "
                "again with `python -m coe.encoders.distill`",
                file=str(folder),
            )
        self._weights = weights.copy()
        unknown = getattr(tokenizer.model, "unk_token", None)
        if unknown in vocabulary:
            self._weights[vocabulary[unknown]] = 0.0
        self._token_ids = TokenIds(tokenizer, vocabulary)
        self._name = f"{folder.name}@{digest[:8]}"

    @property
    def name(self) -> str:
        """The folder's name and a digest of the table, as `minilm-static@1a2b3c4d`."""
        return self._name

    @property
    def dim(self) -> int:
        return int(self._table.shape[1])

    def encode(self, texts: Sequence[str]) -> FloatArray:
        token_ids = self._token_ids.of([clip(text) for text in texts])
        rows = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, ids in zip(rows, token_ids, strict=True):
            if ids:
                tokens = np.array(ids, dtype=np.intp)
                # einsum and not @: a BLAS product of this size would wake a thread pool.
                np.einsum("i,ij->j", self._weights[tokens], self._table[tokens], out=row)
        return unit_rows(rows)


def default_encoder() -> StaticEncoder:
    """The table that ships with the package: no download, no torch."""
    return StaticEncoder(DEFAULT_TABLE)


def _read_tokenizer(folder: Path) -> tuple[Tokenizer, dict[str, int]]:
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ConfigError(
            "is missing; a static encoder is a folder with tokenizer.json and model.safetensors, "
            "as `python -m coe.encoders.distill` writes it",
            file=str(file),
        )
    tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, tokenizer.get_vocab()


def _read_table(file: Path) -> tuple[NDArray[np.number], FloatArray, str]:
    """(n_tokens, dim) vectors, (n_tokens,) float32 weights, and the digest of the file."""
    try:
        raw = file.read_bytes()
        tensors = load(raw)
        table = tensors["embeddings"]
    except (OSError, SafetensorError, KeyError) as error:
        raise ConfigError(
            f"is not a static table ({error!r}); make one with `python -m coe.encoders.distill`",
            file=str(file),
        ) from None
    if "mapping" in tensors:
        table = table[tensors["mapping"]]
    weights = tensors.get("weights", np.ones(len(table)))
    return table, weights.astype(np.float32), hashlib.sha256(raw).hexdigest()
