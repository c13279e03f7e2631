"""`coe init`: the default pool in a folder of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    folder: Annotated[Path, typer.Argument(help="Where to write.")] = Path("."),
    force: Annotated[
        bool,
        typer.Option(help="Replace experts.yaml and zoo/ where they are, the fitted router too."),
    ] = False,
) -> None:
    """Write experts.yaml and the zoo it names, ready to serve without a GPU or a download."""
    from coe.zoo.pool import write_pool

    zoo = folder / "zoo"
    verb = "replaced" if zoo.exists() else "wrote"
    file = write_pool(folder, force=force)
    print(f"{verb} {file} and {zoo} (weights, outcomes, fitted router)")
    print(f"next: coe ask -c {file} 'What is the capital of Peru?'")
