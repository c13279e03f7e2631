"""Real vLLM servers that cannot load their model: what its log says is still understood."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from coe.engines.base import EngineState
from coe.engines.vllm import VllmEngine
from coe.errors import StartupError
from coe.experts import Expert, VllmSpec
from coe.zoo import model_dir

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

VENV = Path(__file__).resolve().parents[2] / ".venv-vllm"
PATIENCE_S = 300.0


def _of_unknown_kind(model: Path) -> None:
    file = model / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"architectures": ["NoSuchForCausalLM"]}))


def _cut_short(model: Path) -> None:
    file = model / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (shutil.rmtree, "its model cannot be read; correct the expert's model"),
        (_of_unknown_kind, "this vLLM does not know the model's architecture"),
        (_cut_short, "its model's files are damaged(.|\n)*it began with .*SafetensorError"),
    ],
)
async def test_a_model_that_vllm_cannot_load_is_explained(
    tmp_path: Path, harm: Callable[[Path], None], told: str
) -> None:
    if not (VENV / ".installed").is_file():
        pytest.fail("no vLLM here; run `python tests/install.py vllm`, or `make test-slow`")
    model = tmp_path / "model"
    shutil.copytree(model_dir("arithmetic"), model)
    harm(model)
    spec = VllmSpec(
        str(model),
        (str(VENV / "bin/python"), "-m", "vllm.entrypoints.openai.api_server"),
        {"dtype": "float32", "max-model-len": 256, "enforce-eager": True},
        {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"},
    )
    engine = VllmEngine(Expert("e", spec), tmp_path / "state", PATIENCE_S)
    with pytest.raises(StartupError, match=told):
        await engine.ensure_ready(PATIENCE_S)
    await engine.stop(30.0)
    assert engine.state is EngineState.FAILED
