"""The zoo's questions: what routers are fitted on ("train") and judged on ("test")."""

import random
from dataclasses import dataclass
from functools import cache

from coe.zoo import EXPERTS, FIELDS
from coe.zoo.fields import draw_item, word_question
from coe.zoo.phrasings import ASKED

__all__ = ["COUNTS", "EXPERTS", "FIELDS", "ZooQuestion", "zoo_questions"]

COUNTS = {"train": 240, "test": 200}


@dataclass(frozen=True, slots=True)
class ZooQuestion:
    """One question with the one answer that counts as right."""

    id: str
    field: str
    skill: str
    split: str
    text: str
    answer: str


@cache
def zoo_questions(split: str | None = None) -> tuple[ZooQuestion, ...]:
    """Return the questions of one split, or of both; the same ones on every call and machine."""
    if split is None:
        return zoo_questions("train") + zoo_questions("test")
    if split not in COUNTS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(COUNTS)}")
    return tuple(question for field in FIELDS for question in _field_questions(field, split))


@cache
def _field_questions(field: str, split: str) -> tuple[ZooQuestion, ...]:
    """Draw one field's questions, its skills taking turns and no text or item twice."""
    rng = random.Random(f"zoo {field} {split}")
    skills = ASKED[field]
    seen: set[str] = set()
    questions: list[ZooQuestion] = []
    tries = 0
    while len(questions) < COUNTS[split]:
        skill = skills[len(questions) % len(skills)]
        item = draw_item(field, skill, split, rng)
        text = word_question(item, split, rng)
        tries += 1
        # A small table runs out of new items before a skill has its share of the questions.
        repeated = f"{skill}:{item.key}" in seen and tries < 20
        if text.lower() in seen or repeated:
            continue
        tries = 0
        seen.update((text.lower(), f"{skill}:{item.key}"))
        name = f"{field}-{split}-{len(questions):03d}"
        questions.append(ZooQuestion(name, field, skill, split, text, item.answer))
    return tuple(questions)
