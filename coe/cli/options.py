"""Options that several commands share, so that they mean and read the same everywhere."""

from __future__ import annotations

import re
from contextvars import ContextVar
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

DEFAULT_CONFIG = Path("experts.yaml")
_FIT = re.compile(r"`coe fit(?! -c)(?=[ `])")
_given_config = ContextVar("given_config", default=DEFAULT_CONFIG)


def remembered(file: Path) -> Path:
    _given_config.set(file)
    return file


ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config", "-c", help="The pool's file.", envvar="COE_CONFIG", callback=remembered
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
CategoryOption = Annotated[
    str | None,
    typer.Option(help="The query's subject, where it is known. Only some routers read it."),
]


def with_given_config(complaint: str) -> str:
    """The complaint with the commands it advises as they have to be typed for this file.

    Who writes "fit it again with `coe fit`" knows a router and not from which file it came.
    """
    file = _given_config.get()
    if file == DEFAULT_CONFIG:
        return complaint
    return _FIT.sub(lambda found: f"{found[0]} -c {quote(str(file))}", complaint)
