"""Annotators say which skills a query needs; `symbolic` keeps each expert's record by skill.

Here is the annotator of Symbolic-MoE (arXiv 2503.05641, section 3.1 and the authors'
`annotate_keywords.py`): an expert is asked for keywords several times and those are kept that
it repeats. It costs `rounds` completions a query. The annotator that asks nobody is in
`symbolic_phrases`. Which expert is asked arrives as a callable: routers know no engine.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from coe.errors import RoutingError
from coe.types import Completion, GenerationRequest, Message, Query, SamplingParams

Skills = Mapping[str, int]
"""Skill → how many times it was found. Iteration order is that of the finding."""

Generate = Callable[[Sequence[str]], Sequence[str]]
"""Prompts → one completion each, in order. Equal prompts are to be sampled independently."""

Complete = Callable[[GenerationRequest], Awaitable[Completion]]
"""One expert's answer to one request, whole."""

KEYWORD_SAMPLING = SamplingParams(max_tokens=64, temperature=0.7)
"""As published, but for the limit: a keyword list that runs longer is no list."""
ROUNDS = 5
LONGEST = 20
"""Characters of the longest keyword; beyond is run-on text."""
LEAST_COUNT = 2
_MARK = "Keywords:"
_MOST_AT_ONCE = 32


class Annotator(Protocol):
    """Names the skills that queries need. As repeatable as what it asks."""

    @property
    def name(self) -> str:
        """Identifies the annotations: profiles of one name must not meet skills of another."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether it may name skills that it did not name for the queries fitted on."""
        ...

    def annotate(self, queries: Sequence[Query]) -> tuple[Skills, ...]:
        """The skills of each query, in order; empty where none is known."""
        ...


class KeywordAnnotator:
    """Keywords that an expert names at least twice in several rounds."""

    is_open = True

    def __init__(self, generate: Generate, rounds: int = ROUNDS, name: str = "keywords") -> None:
        """`generate` samples at `KEYWORD_SAMPLING`; `name` should tell whom it asks."""
        if rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {rounds}")
        self._generate = generate
        self._rounds = rounds
        self.name = name

    def annotate(self, queries: Sequence[Query]) -> tuple[Skills, ...]:
        if not queries:
            return ()
        prompts = [keyword_prompt(query) for query in queries]
        # All rounds in one call, so that an expert which is swapped in is loaded once.
        texts = self._generate(prompts * self._rounds)
        if len(texts) != len(prompts) * self._rounds:
            raise RoutingError(
                f"annotator {self.name!r} asked {len(prompts) * self._rounds} prompts and got "
                f"{len(texts)} completions; generate must return one for each"
            )
        return tuple(repeated_keywords(texts[i :: len(prompts)]) for i in range(len(prompts)))


def keyword_prompt(query: Query) -> str:
    """Asks for two to five keywords. The wording is ours, what it asks for the authors'."""
    return (
        f"{query.text}\n\n"
        "Do not solve this problem. Name the 2 to 5 main subjects or skills that solving it "
        "takes, as short keywords separated by commas. Keywords look like: algebra, genetics, "
        "contract law, microeconomics, thermodynamics, ethics, organic chemistry, world history, "
        f'programming. Reply with nothing but one line that starts with "{_MARK}".'
    )


def read_keywords(text: str) -> list[str]:
    """The keywords of one completion, lower-cased; all of it if the mark is missing."""
    parts = text.split(_MARK)[-1].split(",")
    # The authors' reader keeps the empty keyword that a trailing comma leaves; it names nothing.
    return [word for part in parts if (word := part.strip().lower().replace(".", ""))]


def repeated_keywords(texts: Sequence[str]) -> Skills:
    """Keywords that the rounds together named at least twice, with their counts."""
    counts = Counter(word for text in texts for word in read_keywords(text))
    return {
        word: count
        for word, count in counts.items()
        if count >= LEAST_COUNT and len(word) <= LONGEST
    }


def generate_with(
    complete: Complete, params: SamplingParams = KEYWORD_SAMPLING, seed: int | None = None
) -> Generate:
    """Turns one expert's completions into a `Generate`; `seed` makes its samples repeatable.

    Runs an event loop of its own, so it must not be called from within one. The first failure
    ends the whole call with that error.
    """

    def generate(prompts: Sequence[str]) -> Sequence[str]:
        return asyncio.run(_completed(complete, [_request(i, p) for i, p in enumerate(prompts)]))

    def _request(place: int, prompt: str) -> GenerationRequest:
        # A seed for each place: the rounds of one prompt must differ, and repeat when run again.
        drawn = None if seed is None else seed + place
        sampling = SamplingParams(
            params.max_tokens, params.temperature, params.top_p, drawn, params.stop
        )
        return GenerationRequest((Message("user", prompt),), sampling)

    return generate


async def _completed(complete: Complete, requests: Sequence[GenerationRequest]) -> list[str]:
    free = asyncio.Semaphore(_MOST_AT_ONCE)

    async def text(request: GenerationRequest) -> str:
        async with free:
            return (await complete(request)).text

    return await asyncio.gather(*(text(request) for request in requests))
