"""The committed model directories are whole, small, and of the promised shapes."""

import json
import struct
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from coe.zoo import EXPERTS, FIELDS, WEIGHTS, model_dir
from coe.zoo.recipes import RECIPES
from coe.zoo.tokenizer import END, PAD, VOCAB_SIZE

FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "training.json",
)


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _tensors(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return header


def test_an_unknown_expert_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown expert 'poetry'"):
        model_dir("poetry")


def test_all_weights_together_stay_small() -> None:
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*.safetensors")) <= 16_000_000


@pytest.mark.parametrize("name", EXPERTS)
def test_a_model_directory_has_its_files_and_ids(name: str) -> None:
    path = model_dir(name)
    assert {file.name for file in path.iterdir()} >= set(FILES)
    for file in ("config.json", "generation_config.json"):
        settings = _json(path / file)
        assert (settings["eos_token_id"], settings["pad_token_id"]) == (END, PAD)
    config = _json(path / "config.json")
    assert config["vocab_size"] == VOCAB_SIZE
    assert config["max_position_embeddings"] == 256
    assert config["head_dim"] in (32, 64)
    assert config["tie_word_embeddings"] is True


@pytest.mark.parametrize("name", EXPERTS)
def test_weights_are_bfloat16_and_of_the_recorded_size(name: str) -> None:
    tensors = _tensors(model_dir(name) / "model.safetensors")
    assert {tensor["dtype"] for tensor in tensors.values()} == {"BF16"}
    total = 0
    for tensor in tensors.values():
        start, end = tensor["data_offsets"]
        total += (end - start) // 2
    assert total == _json(model_dir(name) / "training.json")["parameters"]


@pytest.mark.parametrize("name", EXPERTS)
def test_the_record_is_of_the_recipe_in_the_code(name: str) -> None:
    record = _json(model_dir(name) / "training.json")
    assert record["recipe"] == json.loads(json.dumps(asdict(RECIPES[name])))


@pytest.mark.parametrize("name", FIELDS)
def test_a_specialist_is_dense_and_good_in_its_field_alone(name: str) -> None:
    config = _json(model_dir(name) / "config.json")
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    accuracy = _json(model_dir(name) / "training.json")["test_accuracy"]
    assert accuracy[name] >= 0.95
    assert all(accuracy[other] <= 0.2 for other in FIELDS if other != name)


def test_the_generalist_is_sparse_and_middling_everywhere() -> None:
    config = _json(model_dir("generalist") / "config.json")
    assert config["architectures"] == ["Qwen3MoeForCausalLM"]
    assert config["num_experts"] == 8
    assert config["num_experts_per_tok"] == 2
    assert config["norm_topk_prob"] is True
    assert config["decoder_sparse_step"] == 1
    accuracy = _json(model_dir("generalist") / "training.json")["test_accuracy"]
    assert all(0.3 <= accuracy[field] <= 0.7 for field in FIELDS)
