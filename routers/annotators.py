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
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Protocol

from coe.errors import RoutingError
from coe.types import Completion, GenerationRequest, Message, Query, SamplingParams

Skills = Mapping[str, int]
"""Skill → how many times it was found. Iteration order is that of the finding."""

Generate = Callable[[Sequence[str]], Sequence[str]]
"""Prompts → one completion each, in order. Equal prompts are to be sampled independently."""

Complete = Callable[[GenerationRequest], Awaitable[Completion]]
"""One expert's answer to one request, whole."""

OpenExpert = Callable[[], AbstractAsyncContextManager[Complete]]
"""Makes an expert ready to be asked on the event loop that runs, until the block is left."""

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
    open_expert: OpenExpert,
    params: SamplingParams = KEYWORD_SAMPLING,
    seed: int | None = None,
    timeout_s: float | None = None,
) -> Generate:
    """Turns one expert into a `Generate`; `seed` makes its samples repeatable, prompt by prompt.

    Each call opens the expert for itself, in an event loop of its own: connections of one loop are
    of no use in another. So it must not be called from within a loop (`RuntimeError`), only from a
    thread beside it. The first failure ends the whole call with that error, as does `timeout_s`,
    for the call.
    """

    def generate(prompts: Sequence[str]) -> Sequence[str]:
        requests = _requests(prompts, params, seed)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(_completed(open_expert, requests, timeout_s))
        # A mistake of the caller's, which nobody who forgives an expert's failure may hide.
        raise RuntimeError(
            "this router asks an expert for keywords and would hold up the event loop; call it in "
            "a thread (`asyncio.to_thread`), as `decides_slowly` makes a composition's doors do"
        )

    return generate


def _requests(
    prompts: Sequence[str], params: SamplingParams, seed: int | None
) -> list[GenerationRequest]:
    """A seed for each repetition of a prompt: rounds must differ, and repeat when run again."""
    rounds: Counter[str] = Counter()
    requests = []
    for prompt in prompts:
        drawn = None if seed is None else seed + rounds[prompt]
        rounds[prompt] += 1
        requests.append(GenerationRequest((Message("user", prompt),), replace(params, seed=drawn)))
    return requests


async def _completed(
    open_expert: OpenExpert, requests: Sequence[GenerationRequest], timeout_s: float | None
) -> list[str]:
    free = asyncio.Semaphore(_MOST_AT_ONCE)

    async def text(complete: Complete, request: GenerationRequest) -> str:
        async with free:
            return (await complete(request)).text

    async with open_expert() as complete:
        try:
            async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
                tasks = [group.create_task(text(complete, request)) for request in requests]
        except TimeoutError:
            raise RoutingError(f"no keywords were named within {timeout_s:g} s") from None
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
