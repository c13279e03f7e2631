"""`coe serve --workers N`: the process that starts the others, and what each of those does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING

from coe.cli import main
from coe.cli.options import remembered
from coe.cli.serve import (
    ServeOptions,
    announce,
    announce_end,
    hearing_hangups,
    open_gateway,
    ready_line,
    say,
    with_admin,
)

if TYPE_CHECKING:
    from coe.service.server import App
    from coe.service.workers.doors import Doors
    from coe.service.workers.supervisor import Launch, Process
    from coe.store import Hold


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is told by its command line. Descriptors are those that it inherits."""

    index: int
    n: int
    listener: int
    channel: int
    lock: int
    """Of the store."""
    admin: int | None
    together: str
    """The folder for what workers tell each other."""
    config: str
    logs_requests: bool
    logs_prompts: bool


def serve_by_workers(options: ServeOptions, n: int, doors: Doors, admin: socket | None) -> int:
    """Returns the exit status of a worker that could not begin. A signal that ends all of them is
    raised again at the end. Raises `ConfigError` for what cannot be served by several.
    """
    from coe.assembly.sharing import share_of
    from coe.config import load_config
    from coe.errors import ConfigError
    from coe.service.admin.access import AdminKey
    from coe.store import FOLDER, held_store

    config = load_config(options.config)
    share_of(config, 0, n)
    if options.record is not None:
        raise ConfigError("several workers cannot record in one folder; leave --workers out")
    key = {} if admin is None else AdminKey.handed_on()
    with held_store(config.state_dir / FOLDER) as hold:
        launch = _launching(options, n, (doors, admin), hold, key)
        status, ended_by = asyncio.run(_supervised(launch, n, doors))
    if ended_by is not None:
        signal.raise_signal(ended_by)
    return status


async def _supervised(launch: Launch, n: int, doors: Doors) -> tuple[int, int | None]:
    from coe.service.workers.supervisor import Supervisor, obey_signals

    ready = ready_line(doors.url, n)
    # Once nobody is left to accept, clients have to be refused and not kept waiting.
    supervisor = Supervisor(n, launch, say, lambda: say(ready), doors.close, doors.shut)
    obey_signals(supervisor)
    return await supervisor.run(), supervisor.ended_by


def _launching(
    options: ServeOptions,
    n: int,
    entries: tuple[Doors, socket | None],
    hold: Hold,
    key: Mapping[str, str],
) -> Launch:
    """How a worker is started. Only the first has the admin API, and the key to it."""
    doors, admin = entries

    async def launch(index: int, channel: socket) -> Process:
        door = admin if index == 0 else None
        order = Order(
            index,
            n,
            doors.of(index).fileno(),
            channel.fileno(),
            hold.lock_fd,
            None if door is None else door.fileno(),
            str(hold.folder),
            str(options.config),
            options.logs_requests,
            options.logs_prompts,
        )
        inherited = (order.listener, order.channel, order.lock, order.admin)
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__, json.dumps(asdict(order))),
            stdin=asyncio.subprocess.DEVNULL,
            env={**os.environ, **(key if door is not None else {})},
            pass_fds=[fd for fd in inherited if fd is not None],
            # What a terminal sends to a group is for the first process alone to pass on.
            process_group=0,
        )

    return launch


def work(order: Order) -> None:
    """Serves until a signal comes, or the process that has given the order is gone."""
    from coe.assembly.reloading import Reloader
    from coe.assembly.sharing import share_of
    from coe.config import Config, load_config
    from coe.service.app import gateway_app
    from coe.service.heap import settle
    from coe.service.server import run_on
    from coe.service.workers.member import Member
    from coe.service.workers.reloads import reload_here
    from coe.service.workers.seat import Seat

    for fd in (order.listener, order.channel, order.lock, order.admin):
        if fd is not None:
            os.set_inheritable(fd, False)

    def part(config: Config) -> Config:
        return share_of(config, order.index, order.n)

    file = remembered(Path(order.config))
    config = part(load_config(file))
    options = ServeOptions(file, None, order.logs_requests, order.logs_prompts)
    seat = Seat(order.index, order.n, Path(order.together) / "metrics")
    gateway, operator = open_gateway(options, config, seat)
    operator.served.is_alone = False
    if order.index == 0:
        announce(gateway.composition, config)
    inner: App = gateway_app(gateway)
    reloader = Reloader(operator.served, part=part)
    member = Member(inner, seat, socket(fileno=order.channel), partial(reload_here, reloader))
    app: App = member
    if order.admin is not None:
        app = with_admin(app, operator, socket(fileno=order.admin), member.reload_all)

    def on_ready() -> None:
        settle()
        member.ready()

    run_on(
        socket(fileno=order.listener),
        hearing_hangups(app, member.reload_all),
        on_ready=on_ready,
        on_stopping=lambda n, timeout_s: announce_end(n, timeout_s, f"worker {order.index}: "),
    )


if __name__ == "__main__":
    main(partial(work, Order(**json.loads(sys.argv[1]))))
