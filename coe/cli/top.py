"""`coe top`: a running gateway at a glance, once or again and again."""

from __future__ import annotations

import select
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from coe.cli.admin_client import DEFAULT_URL, AdminClient, AdminUrlOption, Unreachable


def top(
    admin_url: AdminUrlOption = DEFAULT_URL,
    once: Annotated[bool, typer.Option(help="Print one frame and end.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
) -> None:
    """Watch devices and experts of a running gateway; q ends."""
    from rich.console import Console

    from coe.cli.frames import frame

    client = AdminClient(admin_url)
    first: Mapping[str, Any] = client.get("state")
    console = Console()
    if once or not console.is_terminal:
        # A pipe has no width of its own, and a line that is cut there says less.
        wide = console if console.is_terminal else Console(width=200)
        wide.print(frame(first))
        return
    _watch(client, console, first, every)


def _watch(client: AdminClient, console: Any, state: Mapping[str, Any], every_s: float) -> None:
    """A gateway that goes away meanwhile may come back: what was seen last stays in view."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from coe.cli.frames import frame

    with _keys(), Live(frame(state), console=console, screen=True, auto_refresh=False) as live:
        while not _told_to_end(every_s):
            try:
                state, before = client.get("state"), state
            except Unreachable as error:
                live.update(Group(Text(str(error), style="red"), frame(state)), refresh=True)
            else:
                live.update(frame(state, before), refresh=True)


@contextmanager
def _keys() -> Iterator[None]:
    """Single keys can be read from the terminal, which is put back as it was."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _told_to_end(within_s: float) -> bool:
    """Whether q is typed within that time, which is waited out if not."""
    watched = [sys.stdin] if sys.stdin.isatty() else []
    ready, _, _ = select.select(watched, [], [], within_s)
    return bool(ready) and sys.stdin.read(1) in ("q", "Q")
