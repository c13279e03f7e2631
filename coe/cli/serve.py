"""`coe serve`: the OpenAI-compatible gateway."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coe.cli.options import DEFAULT_CONFIG, ConfigOption

if TYPE_CHECKING:
    from coe.assembly.operating import Operator
    from coe.assembly.reloading import Reloader
    from coe.composition import Composition
    from coe.config import Config
    from coe.service.server import App


def serve(
    config: ConfigOption = DEFAULT_CONFIG,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    record: Annotated[
        Path | None,
        typer.Option(help="Record every answer, prompts included, in this folder."),
    ] = None,
    admin_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of the admin API, which needs COE_ADMIN_KEY."),
    ] = None,
    admin_host: Annotated[str, typer.Option(help="Where the admin API listens.")] = "127.0.0.1",
    log_requests: Annotated[
        bool, typer.Option("--log-requests", help="A line of JSON on stderr for each request.")
    ] = False,
    log_prompts: Annotated[
        bool, typer.Option("--log-prompts", help="The same, with what was asked.")
    ] = False,
) -> None:
    """Serve the pool as an OpenAI-compatible gateway."""
    from coe.assembly import load_operated
    from coe.cli.state import open_state, settings_of, similar_of
    from coe.config import load_config
    from coe.feedback_log import FeedbackLog
    from coe.scheduling.trace_log import TraceLog
    from coe.service.app import gateway_app
    from coe.service.gateway import Gateway
    from coe.service.metrics import kinds_in
    from coe.service.request_log import RequestLog, write_json_lines
    from coe.service.server import run
    from coe.service.tracing import tracing_or_none

    loaded = load_config(config)
    composition, operator = load_operated(loaded, record)
    _announce(composition, loaded)
    kept = loaded.router.feedback
    feedback = None if kept is None else FeedbackLog(kept)
    trace = None if loaded.trace is None else TraceLog(loaded.trace)
    store = open_state(loaded, _say)
    gateway = Gateway(composition, settings_of(loaded), feedback, trace, store, site=operator.site)
    if log_requests or log_prompts:
        write_json_lines(sys.stderr)
        gateway.log = RequestLog(keeps_prompts=log_prompts)
    gateway.similar = similar_of(loaded)
    gateway.tracing = tracing_or_none(kinds_in(lambda: gateway.composition))
    app: App = gateway_app(gateway)
    with ExitStack() as doors:
        if admin_port is not None:
            app = doors.enter_context(_with_admin(app, operator, admin_host, admin_port))
        run(
            _reloading(app, operator),
            host=host,
            port=port,
            on_ready=lambda url: _say(f'ready at {url}/v1 (model "coe" routes)'),
            on_stopping=_announce_end,
        )


@contextmanager
def _with_admin(app: App, operator: Operator, host: str, port: int) -> Iterator[App]:
    """The gateway with the admin API beside it."""
    from coe.service.admin.access import AdminKey, is_loopback
    from coe.service.admin.app import create_admin_app
    from coe.service.server import bind
    from coe.service.side_door import SideDoor

    key, is_local = AdminKey.taken_from_environment(), is_loopback(host)
    if not is_local:
        _say(
            f"warning: the admin API on {host} is not encrypted, and its key crosses the network; "
            "keep it to a network that you trust, or put TLS before it"
        )
    with bind(host, port) as listener:
        admin = create_admin_app(operator, key, is_local)
        told = "admin API at {}/admin (`coe experts`, `coe top`)"
        yield SideDoor(app, admin, listener, lambda url: _say(told.format(url)))


def _announce(composition: Composition, config: Config) -> None:
    """What is served, and what will not go as the file has it."""
    from coe.assembly.hosting import bound_warning_of

    _say(f"{composition.router.name} over {', '.join(composition.router.pool.ids)}")
    for warning in _missing_keys(config):
        _say(warning)
    if (unheld := bound_warning_of(config)) is not None:
        _say(f"warning: {unheld}")


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


def _reloading(app: App, operator: Operator) -> App:
    """The gateway, which reads its file again at SIGHUP."""
    from coe.assembly.reloading import Reloader
    from coe.service.hangups import Hangups

    return Hangups(app, partial(_reload, Reloader(operator.served)))


async def _reload(reloader: Reloader) -> None:
    from coe.errors import CoeError

    try:
        done = await reloader.reload()
    except CoeError as error:
        _say(f"not reloaded, everything is as it was: {error}")
        return
    told = (("added", done.added), ("changed", done.changed), ("removed", done.removed))
    parts = [f"{what} {', '.join(ids)}" for what, ids in told if ids]
    _say(f"reloaded: {done.router}; {'; '.join(parts) or 'the same experts'}")


def _announce_end(n_requests: int, timeout_s: int) -> None:
    if n_requests == 0:
        _say("stopping")
    else:
        have = "request has" if n_requests == 1 else "requests have"
        _say(f"stopping; {n_requests} {have} {timeout_s} s, a second signal ends them at once")


def _say(text: str) -> None:
    print(f"coe: {text}", file=sys.stderr, flush=True)
