"""The stream of training examples: questions in training words, never a zoo question."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from coe.zoo.fields import draw_item, word_question
from coe.zoo.phrasings import SKILLS
from coe.zoo.questions import zoo_questions
from coe.zoo.tokenizer import PAD, answer_ids, prompt_ids

__all__ = ["Batch", "Example", "batches", "examples"]

_IGNORED = -100
_POOL = 12


@dataclass(frozen=True, slots=True)
class Example:
    """One training question and its answer."""

    field: str
    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids padded on the right, and the labels: answers only, shifted by one."""

    ids: list[list[int]]
    labels: list[list[int]]


@cache
def _taken() -> frozenset[str]:
    """Return the texts of all zoo questions, in lower case."""
    return frozenset(question.text.lower() for question in zoo_questions())


def examples(
    mixture: tuple[tuple[str, float], ...], seed: int, wide: bool = False
) -> Iterator[Example]:
    """Yield training examples of a mixture of fields for ever."""
    rng = random.Random(f"corpus {seed}")
    fields, weights = [name for name, _ in mixture], [weight for _, weight in mixture]
    while True:
        field = rng.choices(fields, weights)[0]
        item = draw_item(field, rng.choice(SKILLS[field]), "expert", rng)
        text = word_question(item, "expert", rng, wide)
        if text.lower() not in _taken():
            yield Example(field, text, item.answer)


def batches(
    mixture: tuple[tuple[str, float], ...], seed: int, size: int, wide: bool = False
) -> Iterator[Batch]:
    """Yield batches of examples of like length, so that little of a batch is padding."""
    rng = random.Random(f"batches {seed}")
    source = examples(mixture, seed, wide)
    while True:
        pool = [_encode(next(source)) for _ in range(size * _POOL)]
        pool.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
        starts = list(range(0, len(pool), size))
        rng.shuffle(starts)
        for start in starts:
            yield _pad(pool[start : start + size])


def _encode(example: Example) -> tuple[list[int], list[int]]:
    """Return the ids of an example's question and of its answer."""
    return prompt_ids(example.text), answer_ids(example.answer)


def _pad(pairs: list[tuple[list[int], list[int]]]) -> Batch:
    """Lay out pairs as one rectangle; the last id of a row only ever serves as a label."""
    width = max(len(prompt) + len(answer) for prompt, answer in pairs) - 1
    ids, labels = [], []
    for prompt, answer in pairs:
        row = (prompt + answer)[:-1]
        target = [_IGNORED] * (len(prompt) - 1) + answer
        ids.append(row + [PAD] * (width - len(row)))
        labels.append(target + [_IGNORED] * (width - len(target)))
    return Batch(ids, labels)
