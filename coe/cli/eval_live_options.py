"""Options that the benchmarks share that are really asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

QuestionsOption = Annotated[
    Path | None, typer.Option("--data", help="File or folder of the questions.")
]
HubOption = Annotated[
    str | None, typer.Option(help="Take the questions from this dataset of the Hugging Face hub.")
]
SplitsOption = Annotated[str, typer.Option(help="Splits to ask, separated by commas.")]
RunOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the run; the same command goes on with it. Default: runs/NAME-DIGEST."
    ),
]
KeptRunOption = Annotated[
    Path | None,
    typer.Option("--run", help="Keep every answer in this folder, to go on with after a crash."),
]
AskOption = Annotated[
    str,
    typer.Option(
        help="Who is asked: routed (those the router chooses), all (every expert; needs no fitted "
        "router) or both."
    ),
]
ShotsOption = Annotated[
    int | None,
    typer.Option(min=0, help="Worked examples before a question; default: the benchmark's."),
]
LimitOption = Annotated[
    int | None, typer.Option(min=1, help="Ask so many questions, drawn by --seed.")
]
TokensOption = Annotated[
    int | None,
    typer.Option(min=1, help="Most tokens of an answer; default: what the pool's file allows."),
]
TemperatureOption = Annotated[float, typer.Option(min=0.0, help="0 is greedy.")]
ConcurrencyOption = Annotated[
    int, typer.Option(min=1, help="Questions in flight at experts that are not hosted here.")
]
ReadyOption = Annotated[
    float, typer.Option(min=0.0, help="Seconds to wait for experts before going on without.")
]
RetryOption = Annotated[
    bool, typer.Option("--retry-failed", help="Ask again what failed in an earlier run.")
]
SeedOption = Annotated[
    int, typer.Option(help="Of the questions drawn, of sampling and of the bootstrap.")
]
ScorerOption = Annotated[
    str, typer.Option(help="exact, choice, numeric, contains, python or judge.")
]
JudgeOption = Annotated[
    str | None,
    typer.Option(help="Who judges: an expert of the pool, or an endpoint as http://HOST/v1#MODEL."),
]
JudgeKeyOption = Annotated[
    str | None, typer.Option(help="Environment variable that holds the endpoint's key.")
]
BaselineOption = Annotated[
    str | None,
    typer.Option(
        help="Compare with these answers: an expert's, or a file of JSON lines. Default: grade "
        "answers alone."
    ),
]
CheckTimeOption = Annotated[
    float, typer.Option(min=0.1, help="Seconds that a python check may take.")
]
