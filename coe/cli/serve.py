"""`coe serve`: the OpenAI-compatible gateway."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from coe.cli.options import DEFAULT_CONFIG, ConfigOption


def serve(
    config: ConfigOption = DEFAULT_CONFIG,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
) -> None:
    """Serve the pool as an OpenAI-compatible gateway."""
    from coe.assembly import load_composition
    from coe.service.app import create_app
    from coe.service.server import run

    composition = load_composition(config)
    experts = ", ".join(composition.router.pool.ids)
    print(f"coe: {composition.router.name} over {experts}", file=sys.stderr, flush=True)
    run(create_app(composition), host=host, port=port, on_ready=_announce)


def _announce(url: str) -> None:
    print(f'coe: ready at {url}/v1 (model "coe" routes)', file=sys.stderr, flush=True)
