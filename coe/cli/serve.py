"""`coe serve`: the OpenAI-compatible gateway."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Annotated

import typer

from coe.cli.options import DEFAULT_CONFIG, ConfigOption

if TYPE_CHECKING:
    from coe.assembly.operating import Operator
    from coe.composition import Composition
    from coe.config import Config
    from coe.service.gateway import Gateway
    from coe.service.server import App
    from coe.service.workers.reloads import Reply
    from coe.service.workers.seat import Seat


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What is asked of every process that serves."""

    config: Path
    record: Path | None = None
    logs_requests: bool = False
    logs_prompts: bool = False


def serve(
    config: ConfigOption = DEFAULT_CONFIG,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="Processes behind the port, for busy gateways.")
    ] = 1,
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
    from coe.service.server import bind

    options, status = ServeOptions(config, record, log_requests, log_prompts), 0
    with ExitStack() as open_doors:
        admin = None
        if admin_port is not None:
            admin = open_doors.enter_context(bind(admin_host, admin_port))
            warn_of_open_admin(admin_host)
        if workers == 1:
            _serve_alone(options, open_doors.enter_context(bind(host, port)), admin)
        else:
            from coe.cli.workers import serve_by_workers
            from coe.service.workers.doors import Doors

            doors = open_doors.enter_context(Doors(host, port, workers))
            status = serve_by_workers(options, workers, doors, admin)
    if status:
        raise typer.Exit(status)


def _serve_alone(options: ServeOptions, listener: socket, admin: socket | None) -> None:
    from coe.config import load_config
    from coe.service.app import gateway_app
    from coe.service.heap import settle
    from coe.service.server import base_url, run_on

    loaded = load_config(options.config)
    gateway, operator = open_gateway(options, loaded)
    announce(gateway.composition, loaded)
    reload = reloading(operator)
    app: App = gateway_app(gateway)
    if admin is not None:
        app = with_admin(app, operator, admin, reload)
    ready = ready_line(base_url(listener))

    def on_ready() -> None:
        settle()
        say(ready)

    run_on(
        listener,
        hearing_hangups(app, reload),
        on_ready=on_ready,
        on_stopping=announce_end,
    )


def open_gateway(
    options: ServeOptions, config: Config, seat: Seat | None = None
) -> tuple[Gateway, Operator]:
    """All that the routes work with. `seat`: of one of several processes."""
    from coe.assembly import load_operated
    from coe.cli.state import open_state, settings_of, similar_of
    from coe.feedback_log import FeedbackLog
    from coe.scheduling.trace_log import TraceLog
    from coe.service.gateway import Gateway
    from coe.service.metrics import kinds_in
    from coe.service.request_log import RequestLog, write_json_lines
    from coe.service.tracing import tracing_or_none

    worker = None if seat is None else seat.index
    composition, operator = load_operated(config, options.record)
    kept, traced = config.router.feedback, config.trace
    feedback = None if kept is None else FeedbackLog(kept, worker=worker)
    trace = None if traced is None else TraceLog(traced, is_shared=worker is not None)
    store = open_state(config, say, worker)
    settings = settings_of(config)
    gateway = Gateway(composition, settings, feedback, trace, store, site=operator.site)
    gateway.seat = seat
    if options.logs_requests or options.logs_prompts:
        write_json_lines(sys.stderr)
        gateway.log = RequestLog(keeps_prompts=options.logs_prompts)
    gateway.similar = similar_of(config)
    gateway.tracing = tracing_or_none(kinds_in(lambda: gateway.composition))
    return gateway, operator


def with_admin(
    app: App, operator: Operator, listener: socket, reload: Callable[[], Awaitable[Reply]]
) -> App:
    """The gateway with the admin API beside it, whose key the environment has."""
    from coe.service.admin.access import AdminKey, is_loopback
    from coe.service.admin.app import create_admin_app
    from coe.service.side_door import SideDoor

    key, is_local = AdminKey.taken_from_environment(), is_loopback(listener.getsockname()[0])
    admin = create_admin_app(operator, key, is_local, reload)
    told = "admin API at {}/admin (`coe experts`, `coe top`)"
    return SideDoor(app, admin, listener, lambda url: say(told.format(url)))


def warn_of_open_admin(host: str) -> None:
    from coe.service.admin.access import is_loopback

    if not is_loopback(host):
        say(
            f"warning: the admin API on {host} is not encrypted, and its key crosses the network; "
            "keep it to a network that you trust, or put TLS before it"
        )


def announce(composition: Composition, config: Config) -> None:
    """What is served, and what will not go as the file has it."""
    from coe.assembly.hosting import bound_warning_of

    say(f"{composition.router.name} over {', '.join(composition.router.pool.ids)}")
    for warning in _missing_keys(config):
        say(warning)
    if (unheld := bound_warning_of(config)) is not None:
        say(f"warning: {unheld}")


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


def reloading(operator: Operator) -> Callable[[], Awaitable[Reply]]:
    """Has the file read again, and tells the operator what came of it."""
    from coe.assembly.reloading import Reloader
    from coe.service.workers.reloads import reload_here

    reloader = Reloader(operator.served)

    async def reload() -> Reply:
        reply = await reload_here(reloader)
        say(reply.told)
        return reply

    return reload


def hearing_hangups(app: App, reload: Callable[[], Awaitable[Reply]]) -> App:
    """The gateway, which reads its file again at SIGHUP."""
    from coe.service.hangups import Hangups

    async def reload_and_forget() -> None:
        await reload()

    return Hangups(app, reload_and_forget)


def ready_line(url: str, n_workers: int = 1) -> str:
    by = "" if n_workers == 1 else f" by {n_workers} workers"
    return f'ready at {url}/v1{by} (model "coe" routes)'


def announce_end(n_requests: int, timeout_s: int, who: str = "") -> None:
    if n_requests == 0:
        say(f"{who}stopping")
        return
    have = "request has" if n_requests == 1 else "requests have"
    say(f"{who}stopping; {n_requests} {have} {timeout_s} s, a second signal ends them at once")


def say(text: str) -> None:
    print(f"coe: {text}", file=sys.stderr, flush=True)
