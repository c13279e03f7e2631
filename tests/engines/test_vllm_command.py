"""Command lines, environments and logs of vLLM servers."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from coe.engines.routed_experts import read_routed_experts
from coe.engines.vllm_command import command_line, environment, spec_of, visible_devices
from coe.engines.vllm_diagnosis import diagnosis, freed_gib
from coe.engines.vllm_memory import smi_table
from coe.errors import ConfigError, UpstreamError
from coe.experts import Expert, FlagValue, VllmSpec


def test_flags_pass_through_as_vllm_spells_them() -> None:
    flags: dict[str, FlagValue] = {
        "max-model-len": 4096, "enable-expert-parallel": True, "enable_prefix_caching": False,
        "moe-backend": "triton", "gpu-memory-utilization": 0.85, "quantization": None,
        "compilation-config": '{"level": 3}',
    }  # fmt: skip
    line = command_line("my/expert", VllmSpec("org/model", flags=flags, sleep_level=1), 8101)
    assert line == (
        "vllm", "serve", "org/model", "--served-model-name", "my/expert",
        "--host", "127.0.0.1", "--port", "8101", "--enable-sleep-mode",
        "--max-model-len=4096", "--enable-expert-parallel", "--no-enable-prefix-caching",
        "--moe-backend=triton", "--gpu-memory-utilization=0.85",
        '--compilation-config={"level": 3}',
    )  # fmt: skip


def test_a_module_takes_its_model_by_a_flag_and_a_socket_takes_no_port() -> None:
    command = ("python", "-m", "vllm.entrypoints.openai.api_server")
    line = command_line("e", VllmSpec("m", command), Path("/run/e.sock"))
    assert line[3:] == ("--model", "m", "--served-model-name", "e", "--uds", "/run/e.sock")


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (VllmSpec("m", flags={"port": 1}), "'port'.*expert's `port`"),
        (VllmSpec("m", flags={"--host": "0.0.0.0"}), "loopback only"),
        (VllmSpec("m", flags={"served_model_name": "x"}), "expert's id"),
        (VllmSpec("m", flags={"enable-sleep-mode": True}), "sleep_level"),
        (VllmSpec("m", flags={"no-enable-sleep-mode": True}), "sleep_level"),
        (VllmSpec("m", flags={"a b; rm": 1}), "no option's name"),
        (VllmSpec("m", sleep_level=3), "sleep_level of expert 'e' is 3"),
        (VllmSpec("m", port=1, uds=True), "a socket has no port"),
        (VllmSpec("m", command=()), "command of expert 'e' is empty"),
    ],
)
def test_what_is_decided_here_cannot_be_set(spec: VllmSpec, names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        spec_of(Expert("e", spec))


def test_the_environment_opens_only_what_is_needed() -> None:
    bare = environment(VllmSpec("m"), {"PATH": "/bin", "HF_TOKEN": "t"}, [])
    assert "HF_TOKEN" not in bare
    assert "VLLM_SERVER_DEV_MODE" not in bare
    assert "CUDA_VISIBLE_DEVICES" not in bare
    spec = VllmSpec(
        "m", sleep_level=1, flags={"enable_lora": True}, env={"X": "1"}, pass_env=("HF_TOKEN",)
    )
    full = environment(spec, {"HF_TOKEN": "t"}, ["gpu0", "gpu3"])
    assert full["VLLM_SERVER_DEV_MODE"] == full["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert (full["X"], full["HF_TOKEN"], full["CUDA_VISIBLE_DEVICES"]) == ("1", "t", "0,3")


def test_device_names_become_what_cuda_understands() -> None:
    assert visible_devices(["cuda:1"]) == "1"
    assert visible_devices(["0", "GPU-8f2a-11"]) == "0,GPU-8f2a-11"
    assert visible_devices(["cpu"]) is None


def test_a_log_without_a_known_cause_explains_nothing() -> None:
    assert diagnosis(["INFO loading", "AssertionError"]) == ""


def test_the_least_that_a_worker_freed_is_what_counts() -> None:
    lines = ["(Worker_TP0) INFO Sleep mode freed 20.5 GiB memory, 1.2 GiB memory is still in use."]
    assert freed_gib(lines) == 20.5
    assert freed_gib([*lines, lines[0].replace("20.5", "6.0")]) == 6.0
    assert freed_gib(["INFO"]) is None


def test_the_driver_s_table_is_read_as_far_as_it_has_numbers() -> None:
    text = "123, GPU-a, 1024\n124, GPU-b, [N/A]\n\n125, GPU-b, 512\n"
    assert smi_table(text) == [(123, "GPU-a", 1024.0), (125, "GPU-b", 512.0)]


def _encoded(array: npt.NDArray[Any], allow_pickle: bool = False) -> str:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return base64.b64encode(buffer.getvalue()).decode()


def test_routed_experts_are_read_and_counted() -> None:
    chosen = np.array([[[0, 1], [2, 3]], [[0, 2], [2, 1]]], dtype=np.int16)
    read = read_routed_experts("e", {"routed_experts": _encoded(chosen)})
    assert read is not None
    assert np.array_equal(read.chosen, chosen)
    assert read.load(4).tolist() == [[0.5, 0.25, 0.25, 0.0], [0.0, 0.25, 0.5, 0.25]]
    assert read_routed_experts("e", {"routed_experts": None}) is None
    assert read_routed_experts("e", {}) is None


@pytest.mark.parametrize(
    "value",
    [
        "not base64!", "", 7, _encoded(np.zeros((2, 2))), _encoded(np.zeros((2, 2, 2))),
        _encoded(np.array([{}], dtype=object), allow_pickle=True),
    ],
)  # fmt: skip
def test_malformed_routed_experts_are_refused_and_never_unpickled(value: object) -> None:
    with pytest.raises(UpstreamError, match="routed_experts"):
        read_routed_experts("e", {"routed_experts": value})
