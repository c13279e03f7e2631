"""What is wrong with a file, in the file's own terms: key, problem, nearest known key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from coe.config.schema import ENGINES, PLACES, FileModel, Strict
from coe.errors import ConfigError, nearest


def config_error(error: ValidationError, file: Path) -> ConfigError:
    """The first complaint, in the file's own terms; how many more there are is told too."""
    details = error.errors(include_url=False, include_context=True)
    # A misspelt key is told before the key that is missing because of it.
    first = min(details, key=lambda detail: detail["type"] != "extra_forbidden")
    location = tuple(part for part in first["loc"] if part not in ENGINES)
    problem = _problem(str(first["type"]), first["msg"], location, first["loc"], first["input"])
    more = f" ({len(details) - 1} more)" if len(details) > 1 else ""
    return ConfigError(problem + more, file=str(file), key=_dotted(location) or None)


def _problem(
    kind: str,
    message: str,
    location: Sequence[int | str],
    raw_location: Sequence[int | str],
    value: object,
) -> str:
    if kind == "extra_forbidden":
        return _unknown_key(str(location[-1]), raw_location[:-1])
    if kind == "missing":
        return "is required and missing"
    if kind == "union_tag_invalid":
        given = value.get("kind") if isinstance(value, dict) else value
        guess = nearest(str(given), ENGINES)
        hint = f"; did you mean {guess!r}?" if guess else ""
        return f"unknown engine kind {given!r} (known: {', '.join(ENGINES)}){hint}"
    if kind == "union_tag_not_found":
        return f"needs a `kind`, one of {', '.join(ENGINES)}"
    told = f"{message[0].lower()}{message[1:]}"
    # An address is not repeated: a password may be in it.
    return told if location and location[-1] == "base_url" else f"{told}, not {value!r}"


def _unknown_key(key: str, parents: Sequence[int | str]) -> str:
    if key == "api_key":
        return "keys are not written in the file; name an environment variable in `api_key_env`"
    model = _model_at(parents)
    known = tuple(model.model_fields)
    guess = nearest(key, known)
    hint = f"did you mean {guess!r}? " if guess else ""
    return f"unknown key {key!r}; {hint}(known: {', '.join(known)})"


def _model_at(parents: Sequence[int | str]) -> type[Strict]:
    names = [part for part in parents if isinstance(part, str)]
    if not names:
        return FileModel
    return ENGINES.get(names[-1]) or PLACES.get(names[-1], FileModel)


def _dotted(location: Sequence[int | str]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
