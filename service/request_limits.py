"""The most that one request may hold and ask for, and how it is told that it is over."""

from __future__ import annotations

from dataclasses import dataclass

from coe.service.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What an operator may set; the defaults let through what agents and batch jobs send."""

    max_depth: int = 64
    """Of arrays and objects within each other."""
    max_messages: int = 2048
    max_parts: int = 256
    """Of one message."""
    max_media_chars: int = 8 * 1024 * 1024
    """Of one image, sound or clip that a request carries itself, as text."""
    media_hosts: tuple[str, ...] | None = None
    """Lower-case hosts that experts' servers may be told to fetch images from; None: those of the
    public internet."""
    max_recruited: int = 16
    """Experts, or answers, that the policy of a request may ask for."""
    max_inputs: int = 2048
    """Prompts of a completion request, texts of an embedding request, items of a response."""
    max_choices: int = 16
    """`n` and `best_of`."""
    max_tokens: int = 131_072
    """To generate, under each of the names it has."""
    max_logprobs: int = 20
    """A token."""
    max_stops: int = 16
    max_stop_chars: int = 256
    max_token_ids: int = 1024
    """`logit_bias`, `stop_token_ids`, `allowed_token_ids`, `bad_words`."""
    max_tools: int = 128
    max_schema_nodes: int = 4096
    """Of one schema: of a tool, or of the answer."""
    max_schema_chars: int = 65_536
    max_schema_depth: int = 32
    max_schema_count: int = 65_536
    """`maxLength`, `minItems` and their kin, which decoders write out."""
    max_pattern_chars: int = 1024
    max_grammar_chars: int = 16_384
    max_listed_answers: int = 1024
    """`guided_choice` and its kin."""
    allows_chat_template: bool = False
    """Whether a client may send a template, which is a program that the expert runs."""


def out_of_bounds(place: str, problem: str, code: str = "invalid_value") -> InvalidRequest:
    """The refusal of a field; `problem` follows its name."""
    return InvalidRequest(f"{place} {problem}", param=place, code=code)


def check_length(n: int, most: int, place: str) -> None:
    if n > most:
        raise out_of_bounds(place, f"has a length of {n}, and {most} is the most")
