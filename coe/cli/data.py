"""`coe data`: published outcomes fetched and laid out as `coe eval` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coe.errors import ConfigError, nearest

data_app = typer.Typer(help="Fetch published data.", no_args_is_help=True, rich_markup_mode=None)
_KNOWN = ("mmlu-pro-outcomes",)


@data_app.callback()
def _data() -> None:
    """Only so that `pull` is a command of its own."""


@data_app.command("pull")
def pull(
    name: Annotated[str, typer.Argument(help="mmlu-pro-outcomes.")],
    out: Annotated[Path, typer.Option(help="Folder of the tables; archives lie in it, too.")],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Another listing (GitHub's contents API), or a folder of archives that are there.",
        ),
    ] = None,
) -> None:
    """Build a table of recorded answers from the archives that a benchmark's authors publish."""
    from coe.cli.progress import progress_bar
    from coe.eval.archives import listed_archives
    from coe.eval.archives import pull as fetch
    from coe.eval.mmlu_pro_results import MMLU_PRO_LISTING, build_mmlu_pro

    if name not in _KNOWN:
        guess = nearest(name, _KNOWN)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise ConfigError(f"unknown data {name!r} (known: {', '.join(_KNOWN)}){hint}")
    if source is not None and Path(source).is_dir():
        files = sorted(Path(source).glob("*.zip"))
        if not files:
            raise ConfigError("holds no archive (*.zip)", file=source, key="from")
    else:
        archives = listed_archives(source or MMLU_PRO_LISTING)
        with progress_bar("fetching archives", len(archives)) as bar:
            files = fetch(archives, out / "archives", bar.advance)
    n_experts, n_questions = build_mmlu_pro(files, out)
    print(f"{n_experts} experts, {n_questions} questions: {out}")
