"""What is measured: how each gateway is started in front of the mock, and what it is asked for.

`direct` is no gateway at all. Every gateway runs one worker, on loopback, without keys, database
or log of requests, as its own documentation has it for production.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.gateway import ours
from bench.gateway.mock import MODEL
from bench.gateway.peers import Installed, install
from bench.gateway.processes import free_port
from bench.serving import ROOT


@dataclass(frozen=True, slots=True)
class Launch:
    """A command that serves on a port, and the environment it needs besides the bare one."""

    command: list[str]
    port: int
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class System:
    """One row of the table."""

    name: str
    model: str
    launch: Callable[[], Launch]
    """Called for every start."""
    routes: bool = False
    """Whether it decides on an expert by the request's text."""


def floor(expert_url: str) -> System:
    def launch() -> Launch:
        port = free_port()
        command = [sys.executable, "-m", "bench.gateway.floor", "--port", str(port)]
        return Launch([*command, "--expert", expert_url], port, {"PYTHONPATH": str(ROOT)})

    return System("floor", MODEL, launch)


def coe(config: Path, routes: bool) -> System:
    """`coe serve`, asked for an expert by its name or for the model that routes."""

    def launch() -> Launch:
        port = free_port()
        return Launch([*ours.COE, "serve", "-c", str(config), "--port", str(port)], port)

    if routes:
        return System("coe-routed", "coe", launch, routes=True)
    return System("coe", ours.EXPERTS[0], launch)


def peer(name: str, folder: Path, expert_url: str) -> tuple[System, Installed]:
    """Another gateway, installed first. Raises `CannotInstall`."""
    installed = install(name, folder)
    launch = {"litellm": _litellm, "smg": _smg, "vllm-router": _vllm_router}[name]
    return System(name, MODEL, lambda: launch(installed, expert_url)), installed


def _litellm(installed: Installed, expert_url: str) -> Launch:
    port = free_port()
    config = installed.folder / f"config-{port}.json"  # JSON is YAML
    expert = {"model": f"openai/{MODEL}", "api_base": f"{expert_url}/v1", "api_key": "unused"}
    settings = {
        "model_list": [{"model_name": MODEL, "litellm_params": expert}],
        "litellm_settings": {"telemetry": False, "set_verbose": False, "request_timeout": 600},
        # None of the others asks for a key here either, and nobody else reaches this address.
        "general_settings": {
            "dangerously_permit_weak_or_unset_master_key": True,
            "disable_spend_logs": True,
            "disable_error_logs": True,
        },
    }
    config.write_text(json.dumps(settings))
    command = [installed.script("litellm"), "--config", str(config), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--num_workers", "1", "--telemetry", "False"]
    # The table of prices comes with the package; without this it is fetched at every start.
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
    return Launch(command, port, environment | {"LITELLM_LOG": "ERROR"})


def _smg(installed: Installed, expert_url: str) -> Launch:
    port = free_port()
    command = [installed.script("smg"), "launch", *_rust_flags(port, expert_url)]
    return Launch([*command, "--log-level", "error"], port)


def _vllm_router(installed: Installed, expert_url: str) -> Launch:
    port = free_port()
    command = [installed.script("vllm-router"), *_rust_flags(port, expert_url)]
    return Launch([*command, "--log-level", "error"], port)


def _rust_flags(port: int, expert_url: str) -> list[str]:
    flags = ["--host", "127.0.0.1", "--port", str(port), "--worker-urls", expert_url]
    flags += ["--policy", "round_robin", "--prometheus-host", "127.0.0.1"]
    return [*flags, "--prometheus-port", str(free_port())]
