"""Options that several commands share, so that they mean and read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="The pool's file.", envvar="COE_CONFIG")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
CategoryOption = Annotated[
    str | None, typer.Option(help="The subject of the query, where it is already known.")
]
DEFAULT_CONFIG = Path("experts.yaml")
