"""Why a vLLM server did not come up, read from its log, and what to change."""

from __future__ import annotations

import re
from collections.abc import Sequence

_PORT_TAKEN = re.compile(r"address already in use|errno 98", re.IGNORECASE)
_CAUSES: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (
        re.compile(
            r"No available memory for the cache blocks|To serve at least one request with",
            re.IGNORECASE,
        ),
        "its share of the device leaves too little memory for the KV cache",
        "lower the flag max-model-len, or raise gpu-memory-utilization and with it the expert's "
        "footprint",
    ),
    (
        re.compile(
            r"less than desired GPU memory utilization|less than the engine's budget"
            r"|out of memory|OutOfMemoryError:|ENOMEM",
            re.IGNORECASE,
        ),
        "the device has too little free memory",
        "lower the flag gpu-memory-utilization or max-model-len, correct the expert's footprint, "
        "or end what else uses that device",
    ),
    (
        _PORT_TAKEN,
        "its port is in use",
        "leave the port out to have one chosen, or stop what uses it",
    ),
    (
        re.compile(r"sleep mode is not supported", re.IGNORECASE),
        "this build of vLLM cannot sleep",
        "set the expert's sleep_level to 0",
    ),
    (
        re.compile(r"are not supported for now|does not recognize this architecture"),
        "this vLLM does not know the model's architecture",
        "let the expert's command name a newer vLLM, or correct the model's config.json",
    ),
    (
        re.compile(
            r"model path does not exist|RepositoryNotFoundError|is not a valid model identifier"
            r"|is not a local folder|Repo id must be|No such file or directory.*config\.json"
            r"|couldn't connect to|LocalEntryNotFoundError|OfflineModeIsEnabled",
            re.IGNORECASE,
        ),
        "its model cannot be read",
        "correct the expert's model: a directory that is there, or a model of the hub that is "
        "downloaded or may be",
    ),
    (
        re.compile(
            r"SafetensorError|parse_safetensors_file_metadata|PytorchStreamReader"
            r"|Cannot find any model weights|The size of tensor a|size mismatch for"
            r"|is not a valid JSON file|not initialized from checkpoint"
        ),
        "its model's files are damaged, or not all there",
        "copy or download the model's directory anew",
    ),
    (
        re.compile(r"unrecognized arguments|invalid choice|error: argument", re.IGNORECASE),
        "this vLLM refuses its flags",
        "correct the expert's flags; `vllm serve --help=all` lists them",
    ),
    (
        re.compile(r"No module named '?vllm|PackageNotFoundError: .*vllm", re.IGNORECASE),
        "there is no vLLM in that environment",
        "let the expert's command name the Python of the environment that has it: "
        "[VENV/bin/python, -m, vllm.entrypoints.openai.api_server]",
    ),
)
_FREED = re.compile(r"Sleep mode freed ([\d.]+) GiB")
_ERROR = re.compile(
    r"^(?:\([^)]*\) (?:ERROR|CRITICAL) \S+ \S+ \[[^\]]*\] )?([\w.]*(?:Error|Exception): .+)$"
)
_MOST_SHOWN = 300


def diagnosis(lines: Sequence[str]) -> str:
    """The cause and its remedy in words; empty if the log tells neither."""
    text = "\n".join(lines)
    for pattern, cause, remedy in _CAUSES:
        if pattern.search(text):
            return f"{cause}; {remedy}"
    return ""


def is_port_taken(lines: Sequence[str]) -> bool:
    return bool(_PORT_TAKEN.search("\n".join(lines)))


def first_error(lines: Sequence[str]) -> str:
    """The first exception that was told, without its traceback; empty if there was none.

    vLLM's workers fail first, and what its front says of that at the end is only that they did.
    """
    found = next((match[1] for line in lines if (match := _ERROR.match(line))), "")
    return found[:_MOST_SHOWN]


def freed_gib(lines: Sequence[str]) -> float | None:
    """What vLLM itself found freed by a sleep, on the worker that freed least; None: no word."""
    found = [float(match[1]) for line in lines if (match := _FREED.search(line))]
    return min(found) if found else None
