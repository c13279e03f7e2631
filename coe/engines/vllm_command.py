"""The command line and the environment of a vLLM server."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from coe.engines.process import LOOPBACK, child_environment
from coe.errors import ConfigError
from coe.experts import Expert, FlagValue, VllmSpec

OURS = {
    "model": "it is the expert's `model`",
    "host": "the server is reached on loopback only",
    "port": "it is the expert's `port`",
    "uds": "it is the expert's `uds`",
    "served-model-name": "it is the expert's id",
    "enable-sleep-mode": "it follows from the expert's `sleep_level`",
    "api-key": "only this process reaches the server",
}
"""Flags that are decided here, and why."""


def spec_of(expert: Expert) -> VllmSpec:
    """The expert's vLLM spec. Raises `ConfigError` for any other, and for what cannot work."""
    spec = expert.engine
    if not isinstance(spec, VllmSpec):
        raise ConfigError(f"expert {expert.id!r} is not of kind 'vllm'")
    if not spec.command:
        raise ConfigError(f"the command of expert {expert.id!r} is empty")
    if spec.sleep_level not in (0, 1, 2):
        raise ConfigError(
            f"sleep_level of expert {expert.id!r} is {spec.sleep_level}; give 0, 1 or 2"
        )
    if spec.uds and spec.port:
        raise ConfigError(f"expert {expert.id!r} has a port and uds; a socket has no port")
    for flag in spec.flags:
        name = _dashed(flag)
        ours = OURS.get(name) or OURS.get(name.removeprefix("no-"))
        if ours is not None:
            raise ConfigError(f"the flag {flag!r} of expert {expert.id!r} is not to be set: {ours}")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", name):
            raise ConfigError(f"the flag {flag!r} of expert {expert.id!r} is no option's name")
    return spec


def command_line(expert_id: str, spec: VllmSpec, address: int | Path) -> tuple[str, ...]:
    """`address`: a port on loopback, or the path of a Unix socket."""
    # `vllm serve` wants its model without a flag, the module behind it with one.
    model = (spec.model,) if spec.command[-1] == "serve" else ("--model", spec.model)
    if isinstance(address, Path):
        listen: tuple[str, ...] = ("--uds", str(address))
    else:
        listen = ("--host", LOOPBACK, "--port", str(address))
    sleep = ("--enable-sleep-mode",) if spec.sleep_level else ()
    flags = tuple(part for name, value in spec.flags.items() for part in _flag(name, value))
    return (*spec.command, *model, "--served-model-name", expert_id, *listen, *sleep, *flags)


def _dashed(name: str) -> str:
    return name.lstrip("-").replace("_", "-")


def _flag(name: str, value: FlagValue) -> tuple[str, ...]:
    dashed = _dashed(name)
    if value is None:
        return ()
    if isinstance(value, bool):
        return (f"--{dashed}",) if value else (f"--no-{dashed}",)
    # Joined, so that a value that begins with a dash is not taken for an option.
    return (f"--{dashed}={value}",)


def environment(
    spec: VllmSpec, surroundings: Mapping[str, str], devices: Sequence[str]
) -> dict[str, str]:
    """What the server sees. `devices` empty leaves the choice of them to the surroundings."""
    own = {"VLLM_NO_USAGE_STATS": "1"}
    if spec.sleep_level:
        own["VLLM_SERVER_DEV_MODE"] = "1"
    if takes_adapters(spec):
        own["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    if (visible := visible_devices(devices)) is not None:
        own["CUDA_VISIBLE_DEVICES"] = visible
    return child_environment(surroundings, spec.pass_env, {**own, **spec.env})


def takes_adapters(spec: VllmSpec) -> bool:
    return any(
        value is True for name, value in spec.flags.items() if _dashed(name) == "enable-lora"
    )


def visible_devices(devices: Sequence[str]) -> str | None:
    """`gpu0`, `cuda:1` and `2` are the first three GPUs; a UUID is itself; `cpu` is none of them.

    None: nothing is said of GPUs.
    """
    names = [device for device in devices if not device.lower().startswith("cpu")]
    if not names:
        return None
    numbers = [re.search(r"\d+$", name) for name in names]
    return ",".join(
        name if number is None or name.startswith(("GPU-", "MIG-")) else number[0]
        for name, number in zip(names, numbers, strict=True)
    )
