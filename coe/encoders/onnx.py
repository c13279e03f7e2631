"""An ONNX export of a sentence-transformer, run by onnxruntime on one thread.

`python -m coe.encoders.export_onnx` makes the folder. Sees word order, and costs about what
docs/adr/0001-default-encoder.md says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from coe.encoders.vectors import FloatArray, clip, unit_rows
from coe.errors import ConfigError, install_hint

MAX_TOKENS = 256
BATCH_ROWS = 32


class OnnxEncoder:
    """Mean-pools the token vectors of `model.onnx`; texts beyond 256 tokens are cut.

    The session is shared by threads. Rows are encoded in groups of similar length, and a row
    padded beside others may differ from the same row alone in the last digits.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        model, tokenizer = folder / "model.onnx", folder / "tokenizer.json"
        for file in (model, tokenizer):
            if not file.is_file():
                raise ConfigError(
                    "is missing; `python -m coe.encoders.export_onnx` makes the folder",
                    file=str(file),
                )
        try:
            from onnxruntime import InferenceSession, SessionOptions
        except ImportError:
            raise ConfigError(
                f"the onnx encoder needs onnxruntime: {install_hint('onnx')}", key="encoder"
            ) from None
        options = SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        raw = model.read_bytes()
        self._session = InferenceSession(raw, options, providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_str(tokenizer.read_text(encoding="utf-8"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.no_padding()
        self._dim = int(self._session.get_outputs()[0].shape[-1])
        self._name = f"{folder.name}@{hashlib.sha256(raw).hexdigest()[:8]}"

    @property
    def name(self) -> str:
        """The folder's name and a digest of the model."""
        return self._name

    @property
    def dim(self) -> int:
        return self._dim

    def encode(self, texts: Sequence[str]) -> FloatArray:
        encodings = self._tokenizer.encode_batch([clip(text) for text in texts])
        # A text that is nothing but the marks put around it has no token of its own.
        known = [i for i, text in enumerate(texts) if text.strip()]
        known.sort(key=lambda i: len(encodings[i].ids))
        rows = np.zeros((len(texts), self._dim), dtype=np.float32)
        for start in range(0, len(known), BATCH_ROWS):
            chosen = known[start : start + BATCH_ROWS]
            rows[chosen] = self._pooled([encodings[i].ids for i in chosen])
        return unit_rows(rows)

    def _pooled(self, ids: Sequence[Sequence[int]]) -> FloatArray:
        """(n, dim) means over each row's own tokens."""
        width = max(len(row) for row in ids)
        tokens = np.zeros((len(ids), width), dtype=np.int64)
        mask = np.zeros((len(ids), width), dtype=np.int64)
        for i, row in enumerate(ids):
            tokens[i, : len(row)] = row
            mask[i, : len(row)] = 1
        feed = {"input_ids": tokens, "attention_mask": mask}
        hidden: FloatArray = self._session.run(None, feed)[0]
        sums = np.einsum("ntd,nt->nd", hidden, mask.astype(np.float32))
        means: FloatArray = sums / mask.sum(axis=1, keepdims=True)
        return means
