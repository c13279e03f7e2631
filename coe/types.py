"""The words every other module speaks: messages, queries, sampling, deltas, completions.

Plain frozen values without behaviour beyond derived properties. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, text only."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Query:
    """What is routed: the human's ask, and what is known about it."""

    text: str
    id: str = ""
    category: str | None = None
    """The subject the caller already knows it to be about; None means unknown."""
    previous_expert: str | None = None
    """Who answered the conversation's last turn, and has it in its cache; None: nobody yet."""

    @classmethod
    def of(cls, query: Query | str) -> Query:
        """A query as given, or one made from bare text."""
        return query if isinstance(query, Query) else cls(text=query)

    @classmethod
    def of_messages(
        cls, messages: Sequence[Message], id: str = "", previous_expert: str | None = None
    ) -> Query:
        """The last user turn of a conversation, which is what decides the routing."""
        turns = [message.content for message in messages if message.role == "user"]
        turns = turns or [message.content for message in messages]
        return cls(turns[-1] if turns else "", id, previous_expert=previous_expert)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How an expert picks tokens. The default is greedy, so that answers repeat."""

    max_tokens: int | None = None
    """Most tokens to generate; None leaves it to the expert's own limit."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    seed: int | None = None
    """Same seed, same request, same expert: same text. None draws a fresh one."""
    stop: tuple[str, ...] = ()
    """Generation ends before the first of these strings, which is not part of the text."""


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A request as its client sent it, for an expert whose server speaks the same protocol."""

    fields: Mapping[str, object]
    """The JSON body. The engine puts in its own name of the model and changes nothing else."""
    route: str = "chat/completions"
    """Where it goes, below the server's base address."""
    is_streamed: bool = False
    """Whether the answer comes as server-sent events."""
    is_all: bool = False
    """Whether it says what messages and params cannot, so that only experts that pass bytes
    through can answer, and each of them alone.
    """


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What an engine is asked to generate."""

    messages: tuple[Message, ...]
    params: SamplingParams = field(default_factory=SamplingParams)
    id: str = ""
    """The query's id where it has one; recorded answers are looked up by it."""
    session: str | None = None
    """Requests of one name share a prefix, and are better off with one expert."""
    priority: int = 0
    """Higher goes first where experts have to be waited for."""
    deadline_s: float | None = None
    """The event loop's time by which it has to be finished; None: it may take what it takes."""
    patience_s: float | None = None
    """How long to wait for the first word before somebody else is asked, who there is then; None:
    there is nobody else.
    """
    raw: RawRequest | None = None
    """What is sent in place of the rest by engines that pass bytes through."""
    ask: str | None = None
    """What decides the routing; None: the last user turn."""
    trace: tuple[tuple[str, str], ...] = ()
    """Headers by which an expert's server joins the trace of whoever asks."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as the expert's own tokenizer counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


@dataclass(frozen=True, slots=True)
class Delta:
    """One piece of a streamed completion.

    A stream is any number of text deltas and then exactly one with a finish reason, which also
    carries the usage. A stream that ends without a finish reason was cut off. The answer to a
    raw request comes as pieces of the server's own response in place of text.
    """

    text: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    raw: bytes = b""

    @property
    def says_something(self) -> bool:
        """Whether somebody who hears it has begun to hear the answer."""
        return bool(self.text or self.raw)


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations of one completion, in seconds, all from the same monotonic clock."""

    ttft_s: float
    """Request to first text."""
    e2el_s: float
    """Request to last delta."""

    def tpot_s(self, completion_tokens: int) -> float | None:
        """Seconds per token after the first; None below two tokens, where it is undefined."""
        if completion_tokens < 2:
            return None
        return (self.e2el_s - self.ttft_s) / (completion_tokens - 1)


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished answer of one expert."""

    text: str
    finish_reason: FinishReason
    usage: Usage | None
    """None where the expert counted none."""
    timing: Timing | None = None
    """None where the answer was recorded, not generated."""
