"""`coe serve`: the OpenAI-compatible gateway."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from coe.cli.options import DEFAULT_CONFIG, ConfigOption

if TYPE_CHECKING:
    from coe.config import Config


def serve(
    config: ConfigOption = DEFAULT_CONFIG,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
) -> None:
    """Serve the pool as an OpenAI-compatible gateway."""
    from coe.assembly import load_composition
    from coe.config import load_config
    from coe.feedback_log import FeedbackLog
    from coe.service.app import create_app
    from coe.service.server import run

    loaded = load_config(config)
    composition = load_composition(loaded)
    _say(f"{composition.router.name} over {', '.join(composition.router.pool.ids)}")
    for warning in _missing_keys(loaded):
        _say(warning)
    kept = loaded.router.feedback
    run(
        create_app(composition, feedback=None if kept is None else FeedbackLog(kept)),
        host=host,
        port=port,
        on_ready=lambda url: _say(f'ready at {url}/v1 (model "coe" routes)'),
        on_stopping=_announce_end,
    )


def _missing_keys(config: Config) -> list[str]:
    """A complaint for every expert whose API key is not in the environment."""
    from coe.experts import OpenAISpec

    warnings: list[str] = []
    for expert in config.pool:
        name = expert.engine.api_key_env if isinstance(expert.engine, OpenAISpec) else None
        if name is not None and not os.environ.get(name):
            warnings.append(
                f"warning: expert {expert.id!r} will fail, because the environment variable "
                f"{name} with its API key is not set; set it and start again"
            )
    return warnings


def _announce_end(n_requests: int, timeout_s: int) -> None:
    if n_requests == 0:
        _say("stopping")
    else:
        have = "request has" if n_requests == 1 else "requests have"
        _say(f"stopping; {n_requests} {have} {timeout_s} s, a second signal ends them at once")


def _say(text: str) -> None:
    print(f"coe: {text}", file=sys.stderr, flush=True)
