"""How the zoo's questions are worded: training patterns, held-out test patterns, and framing.

Each pattern is expanded by `grammar.expand`. A test phrasing is never a training phrasing; it is
made of words that the training phrasings also use, so a model must generalise over wording but
is not asked to know words it has never met.
"""

from functools import cache

from coe.zoo.grammar import expand
from coe.zoo.tables import (
    arithmetic_wordings,
    chemistry_wordings,
    geography_wordings,
    text_wordings,
    vocabulary_wordings,
)

__all__ = ["ASKED", "ENDINGS", "OPENINGS", "SKILLS", "phrasings"]

OPENINGS: dict[str, tuple[str, ...]] = {
    "train": (
        "please ",
        "hi, ",
        "hello! ",
        "hey, ",
        "ok, ",
        "so, ",
        "now ",
        "quick one: ",
        "question: ",
        "Q: ",
        "next: ",
        "help me: ",
        "tell me: ",
        "good morning, ",
    ),
    "test": ("hi! ", "hello, ", "quick question: ", "please: ", "ok: ", "now, "),
}
ENDINGS: dict[str, tuple[str, ...]] = {
    "train": ("?", ".", "?", ".", " please", ", please", " please?", "!", "??", ", thanks", " now"),
    "test": ("?", ".", "?", ".", ", please?", " thanks", "!", " please."),
}

_ALL = {
    "arithmetic": arithmetic_wordings.PATTERNS,
    "geography": geography_wordings.PATTERNS,
    "chemistry": chemistry_wordings.PATTERNS,
    "vocabulary": vocabulary_wordings.PATTERNS,
    "text": text_wordings.PATTERNS,
}
SKILLS: dict[str, tuple[str, ...]] = {field: tuple(skills) for field, skills in _ALL.items()}
# Counting a letter's occurrences is taught but not asked: the text expert stayed near 60 % of it,
# which is little more than always answering "1".
ASKED: dict[str, tuple[str, ...]] = {
    field: tuple(skill for skill in skills if skill != "occurrences")
    for field, skills in SKILLS.items()
}


@cache
def phrasings(
    field: str, skill: str, split: str, wide: bool = False
) -> tuple[tuple[str, ...], ...]:
    """Return the templates of one skill, one tuple a pattern; split is "train" or "test"."""
    patterns = _ALL[field][skill][0 if split == "train" else 1]
    if wide and split == "train" and skill == "translate":
        patterns += vocabulary_wordings.WIDER
    return tuple(expand(pattern) for pattern in patterns)
