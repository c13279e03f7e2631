"""The recipe of the static table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from coe.encoders import StaticEncoder
from coe.encoders.distill import DIM, distill, principal_components, zipf_frequencies
from coe.errors import ConfigError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def test_zipf_frequencies_follow_the_order_of_the_vocabulary() -> None:
    words = ["[PAD]", "!", "a", "中", "the", "of", "and"]
    shares = dict(zip(words, zipf_frequencies(words), strict=True))
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["the"] > shares["of"] > shares["and"] > shares["!"] > shares["a"] > 0
    assert shares["[PAD]"] == shares["中"] == 0
    assert shares["the"] / shares["of"] == pytest.approx(4.7 / 3.7)


def test_principal_components_are_ordered_and_centred_on_plain_tokens() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(600, DIM + 8)) * np.linspace(5, 1, DIM + 8) + 3
    is_plain = np.arange(600) >= 5
    vectors[:5] = 1000
    projected = principal_components(vectors, is_plain)
    assert projected.shape == (600, DIM)
    np.testing.assert_allclose(projected[5:].mean(axis=0), 0, atol=1e-9)
    spread = projected[5:].std(axis=0)
    assert np.all(np.diff(spread) <= 1e-9)


@pytest.fixture
def tiny_weights(tmp_path: Path) -> Path:
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    plain = ["the", *(f"w{i}" for i in range(300))]
    words = [*SPECIAL, "[unused0]", "!", *plain]
    tokenizer = Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.enable_truncation(8)
    folder = tmp_path / "weights"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=DIM + 8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_distill_writes_a_table_that_the_encoder_serves(tiny_weights: Path, tmp_path: Path) -> None:
    distill(tmp_path / "one" / "table", tiny_weights)
    distill(tmp_path / "two" / "table", tiny_weights)
    encoder = StaticEncoder(tmp_path / "one" / "table")
    assert encoder.dim == DIM
    assert encoder.name == StaticEncoder(tmp_path / "two" / "table").name
    rows = encoder.encode(["w1 w2", "W1", "[CLS]", "nothing known"])
    assert rows[:2].any(axis=1).all()
    assert not rows[2:].any()
    stored = json.loads((tmp_path / "one" / "table" / "tokenizer.json").read_text())
    assert "[unused0]" not in stored["model"]["vocab"]


def test_distill_refuses_another_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"le": 0}}}')
    with pytest.raises(ConfigError, match="not an English WordPiece"):
        distill(tmp_path / "out", tmp_path)
