"""`coe eval beir`: retrieval experts trained, routed to and measured on collections."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coe.errors import ConfigError, DatasetError, nearest

if TYPE_CHECKING:
    from coe.config import EncoderConfig
    from coe.eval.beir_systems import Measured, Pool
    from coe.retrieval.collection import Collection
    from coe.retrieval.training import Recipe
    from coe.routing import Encoder

_WIDTH = 140
"""Of a file or a pipe, which has none to fit into."""
_KINDS = ("static", "onnx", "sentence-transformers")
_EncoderOption = Annotated[
    str,
    typer.Option(
        help="Base of all experts: static (the shipped table), static:FOLDER, onnx:FOLDER or "
        "sentence-transformers:NAME."
    ),
]


def beir(
    data: Annotated[Path, typer.Option(help="A collection in BEIR form, or a folder of several.")],
    split: Annotated[str, typer.Option(help="Split to judge on.")] = "test",
    fit_split: Annotated[
        str, typer.Option(help="Split whose queries experts and router may learn from.")
    ] = "train",
    collections: Annotated[
        str | None, typer.Option(help="Names, separated by commas. Default: all of --data.")
    ] = None,
    encoder: _EncoderOption = "static",
    cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps vectors from one run to the next.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the experts here, as a pool for `coe serve`.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write results and provenance to this file.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
) -> None:
    """Train an expert for each collection and judge RouterRetriever on all of them."""
    from coe.assembly.engines import encoder_for
    from coe.cli.eval_output import Output
    from coe.eval.beir_pool import check_free, save_pool
    from coe.eval.beir_report import beir_json
    from coe.eval.provenance import Origin, provenance
    from coe.retrieval.cached import CachedEncoder
    from coe.retrieval.training import Recipe

    if out is not None:
        check_free(out)
    chosen = _chosen(data, collections, split, fit_split)
    config = encoder_config(encoder)
    base = encoder_for(config)
    kept = base if cache is None else CachedEncoder(base, cache)
    pool, measured = _measured(chosen, kept, (split, fit_split), Recipe(seed=seed))
    if out is not None:
        save_pool(pool, out, _section(config))
    _tell(measured, out)
    if json_file is not None:
        origin = Origin(
            "beir",
            _digest([each.digest() for each in chosen]),
            pool.table.digest(),
            split,
            fit_split,
            base.name,
            seed,
            tuple(sys.argv[1:]),
        )
        Output().json(json_file, beir_json(measured, pool, Recipe(seed=seed), provenance(origin)))


def _measured(
    chosen: Sequence[Collection], base: Encoder, splits: tuple[str, str], recipe: Recipe
) -> tuple[Pool, Measured]:
    from coe.cli.progress import progress_bar
    from coe.eval.beir_systems import measure, train_pool
    from coe.retrieval.domains import Domain

    split, fit_split = splits
    with progress_bar("encoding, training, judging", 3 * len(chosen) + 1) as bar:
        domains = []
        for collection in chosen:
            domains.append(Domain.of(collection, base, fit_split))
            bar.advance()
        pool = train_pool(domains, base, fit_split, recipe, lambda _: bar.advance())
        return pool, measure(domains, pool, split, lambda _: bar.advance())


def _tell(measured: Measured, out: Path | None) -> None:
    from rich.console import Console

    from coe.eval.beir_report import caption, routed_table, systems_table

    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    for table in (
        systems_table(measured, "ndcg"),
        systems_table(measured, "recall"),
        routed_table(measured),
    ):
        console.print(table)
    for line in (caption(measured), *([] if out is None else [f"experts written to {out}"])):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _chosen(data: Path, names: str | None, split: str, fit_split: str) -> list[Collection]:
    """The named collections. Raises before anything is trained where one cannot be judged."""
    from coe.cli.eval_options import listed
    from coe.eval.beir import load_collections

    if split == fit_split:
        raise ConfigError(
            f"--split and --fit-split are both {split!r}: experts would be judged on what they "
            "learnt from; name two"
        )
    found = {each.name: each for each in load_collections(data)}
    wanted = list(found) if names is None else listed(names)
    for name in wanted:
        if name not in found:
            guess = nearest(name, found)
            hint = f"; did you mean {guess!r}?" if guess else ""
            raise DatasetError(f"{data}: no collection {name!r} ({', '.join(found)}){hint}")
    chosen = [found[name] for name in wanted]
    for each in chosen:
        each.split(split)
    if not any(each.has_split(fit_split) for each in chosen):
        chosen[0].split(fit_split)
    return chosen


def encoder_config(text: str) -> EncoderConfig:
    """What --encoder says. Raises `ConfigError` with the nearest kind."""
    from coe.config import EncoderConfig

    kind, _, model = text.partition(":")
    if kind == "static":
        return EncoderConfig("static", model or None)
    if kind == "onnx" and model:
        return EncoderConfig("onnx", model)
    if kind == "sentence-transformers" and model:
        return EncoderConfig("sentence-transformers", model)
    guess = nearest(kind, _KINDS)
    hint = f"; did you mean {guess!r}?" if guess and guess != kind else ""
    raise ConfigError(
        f"--encoder {text!r} is none of static, static:FOLDER, onnx:FOLDER and "
        f"sentence-transformers:NAME{hint}"
    )


def _section(config: EncoderConfig) -> str:
    """As `experts.yaml` has it; a folder in full, since that file is elsewhere."""
    model = config.model
    if model is not None and Path(model).exists():
        model = str(Path(model).resolve())
    return json.dumps({"kind": config.kind, **({} if model is None else {"model": model})})


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]
