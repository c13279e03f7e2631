"""Makes a static table: `python -m coe.encoders.distill OUT --weights DIR`.

The recipe is fixed, so the same weights give the same table: every vocabulary token is encoded
alone, the vectors are centred and turned onto their 192 principal components, kept as int8 with
one scale a row, and weighted by a / (a + p) (Arora et al. 2017, SIF). A token's frequency p is
Zipf's law over its rank, because WordPiece vocabularies are sorted by frequency: no corpus is
needed. docs/adr/0001-default-encoder.md has what was tried.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from coe.errors import ConfigError

FloatArray = NDArray[np.floating]

DIM = 192
SIF_A = 3e-4
FIRST_WORD = "the"
"""The most frequent word; the vocabulary is in order of frequency from it on."""
PUNCTUATION_RANK, CHARACTER_RANK = 10, 50
"""Where ASCII punctuation and single ASCII characters, which come before it, are ranked."""
ZIPF_OFFSET = 2.7
"""Mandelbrot's offset for English."""
ENCODE_ROWS = 512


def distill(out: Path, weights: Path) -> None:
    """Writes the table of the sentence-transformer in `weights` into the folder `out`."""
    tokenizer = json.loads((weights / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    if FIRST_WORD not in vocabulary:
        raise ConfigError("is not an English WordPiece vocabulary", file=str(weights))
    words = sorted(vocabulary, key=lambda word: vocabulary[word])
    special = {token["content"] for token in tokenizer["added_tokens"]}
    kept = [word for word in words if word in special or not _is_reserved(word)]
    is_plain = np.array([word not in special for word in kept])

    vectors = principal_components(token_vectors(weights, [vocabulary[w] for w in kept]), is_plain)
    scales = np.maximum(np.abs(vectors).max(axis=1), 1e-9) / 127
    sif = SIF_A / (SIF_A + zipf_frequencies(words)[[vocabulary[w] for w in kept]])
    tensors = {
        "embeddings": np.rint(vectors / scales[:, None]).astype(np.int8),
        "weights": (scales * sif * is_plain).astype(np.float32),
    }
    out.mkdir(parents=True, exist_ok=True)
    # save_file would leave a file that only its owner may read.
    (out / "model.safetensors").write_bytes(save(tensors))
    _write_json(out / "tokenizer.json", _shrunk(tokenizer, kept))
    _write_json(
        out / "config.json",
        {"normalize": True, "max_length": None, "embedding_dtype": "int8", "hidden_dim": DIM},
    )


def token_vectors(weights: Path, token_ids: Sequence[int]) -> FloatArray:
    """(n, hidden) what the model makes of each token as a text of its own."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(weights).eval()
    tokenizer = AutoTokenizer.from_pretrained(weights)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(token_ids), ENCODE_ROWS):
            tokens = torch.tensor(token_ids[start : start + ENCODE_ROWS])
            first = torch.full_like(tokens, tokenizer.cls_token_id)
            last = torch.full_like(tokens, tokenizer.sep_token_id)
            hidden = model(input_ids=torch.stack([first, tokens, last], dim=1)).last_hidden_state
            parts.append(hidden.mean(dim=1).numpy())
    return np.concatenate(parts)


def principal_components(vectors: FloatArray, is_plain: NDArray[np.bool_]) -> FloatArray:
    """(n, DIM) projections, centred on the plain tokens. Signs are fixed: largest entry first."""
    centre = vectors[is_plain].mean(axis=0)
    _, axes = np.linalg.eigh(np.cov(vectors[is_plain], rowvar=False))
    axes = axes[:, ::-1][:, :DIM]
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.sign(axes[largest, np.arange(DIM)])
    projected: FloatArray = (vectors - centre) @ axes
    return projected


def zipf_frequencies(words: Sequence[str]) -> FloatArray:
    """(n_words,) shares of running text. What precedes the first word is rare unless ASCII."""
    first = list(words).index(FIRST_WORD)
    ranks = np.arange(len(words), dtype=np.float64) - first + 1
    for i, word in enumerate(words[:first]):
        ranks[i] = np.inf
        if len(word) == 1 and word.isascii():
            ranks[i] = CHARACTER_RANK if word.isalnum() else PUNCTUATION_RANK
    shares = 1 / (ranks + ZIPF_OFFSET)
    frequencies: FloatArray = shares / shares.sum()
    return frequencies


def _is_reserved(word: str) -> bool:
    return word.startswith("[unused") and word.endswith("]")


def _shrunk(tokenizer: dict[str, object], kept: Sequence[str]) -> dict[str, object]:
    """The tokenizer over the kept words, renumbered, without truncation, padding or marks."""
    ids = {word: i for i, word in enumerate(kept)}
    model = dict(tokenizer["model"], vocab=ids)  # type: ignore[call-overload]
    added = [dict(token, id=ids[token["content"]]) for token in tokenizer["added_tokens"]]  # type: ignore[attr-defined]
    nothing = {"truncation": None, "padding": None, "post_processor": None}
    return {**tokenizer, **nothing, "model": model, "added_tokens": added}


def _write_json(file: Path, value: object) -> None:
    compact = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    file.write_text(compact + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Distil a static embedding table.")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--weights", type=Path, required=True, help="all-MiniLM-L6-v2's folder")
    arguments = parser.parse_args()
    distill(arguments.out, arguments.weights)


if __name__ == "__main__":
    main()
