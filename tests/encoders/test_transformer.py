from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from coe.encoders import SentenceTransformerEncoder
from coe.errors import ConfigError


def test_sentence_transformer_encoder_says_which_package_it_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigError, match=r"pip install \"coe-router\[encoders\]\""):
        SentenceTransformerEncoder("any")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_sentence_transformer_encoder_serves_a_saved_model(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "north": 1, "south": 2}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    table = np.array([[0, 0, 1], [3, 4, 0], [0, 2, 0]], dtype=np.float32)
    module = StaticEmbedding(tokenizer, embedding_weights=table)
    SentenceTransformer(modules=[module], device="cpu").save(str(tmp_path))

    encoder = SentenceTransformerEncoder(str(tmp_path))
    assert encoder.dim == 3
    rows = encoder.encode(["south", "", "north"])
    expected = np.array([[0, 1, 0], [0, 0, 0], [0.6, 0.8, 0]])
    np.testing.assert_allclose(rows, expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_sentence_transformer_encoder_says_what_it_cannot_load(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"encoder\.model: .*cannot be loaded"):
        SentenceTransformerEncoder(str(tmp_path / "nothing"))
