"""What the five fields ask: items with their answers, drawn at random, and their wording.

A draw belongs to one of three shares: "expert" (what the models learn from), "train" (what
routers are fitted on) and "test". Where a field has enough items, the shares hold different
items, told apart by a hash; where it has a closed table of facts they hold the same facts in
different words.
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

from coe.zoo.grammar import fill, restyle
from coe.zoo.phrasings import ENDINGS, OPENINGS, SKILLS, phrasings
from coe.zoo.tables.countries import COUNTRIES
from coe.zoo.tables.elements import ELEMENTS
from coe.zoo.tables.words import LANGUAGES, WORDS

__all__ = ["MAX_BYTES", "Item", "draw_item", "share_of", "word_question"]

MAX_BYTES = 60
_TYPOS = 0.12
_VOWELS = "aeiou"
_ONSETS = (*"bcdfghjklmnprstvwz", "st", "tr", "pl", "br", "ch", "sh", "gr", "fl", "cl")
_CODAS = ("", "", "", *"nrslmtdkp", "ss", "ll", "nt", "rd", "st", "ck")


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to ask: the words that go into a phrasing, and the answer."""

    field: str
    skill: str
    key: str
    slots: dict[str, str]
    answer: str


def share_of(key: str) -> str:
    """Return the share an open-ended item belongs to: "expert", "train" or "test"."""
    bucket = hashlib.sha256(key.encode()).digest()[0] % 10
    return "test" if bucket == 0 else "train" if bucket == 1 else "expert"


def draw_item(field: str, skill: str, share: str, rng: random.Random) -> Item:
    """Draw one item of a skill from a share."""
    return _DRAWS[field](skill, share, rng)


def word_question(item: Item, share: str, rng: random.Random, wide: bool = False) -> str:
    """Put an item into words of its share's phrasings, in at most MAX_BYTES bytes."""
    split = "test" if share == "test" else "train"
    while True:
        template = rng.choice(rng.choice(phrasings(item.field, item.skill, split, wide)))
        template = restyle(_frame(template, split, rng), rng, _TYPOS if share == "expert" else 0.0)
        text = fill(template, item.slots)
        if len(text.encode()) <= MAX_BYTES:
            return text


def _frame(template: str, split: str, rng: random.Random) -> str:
    """Add an opening and an ending to some of the templates."""
    opening = rng.choice(OPENINGS[split]) if rng.random() < 0.3 else ""
    ending = rng.choice(ENDINGS[split]) if rng.random() < 0.6 else ""
    return opening + template + ending


def _arithmetic(skill: str, share: str, rng: random.Random) -> Item:
    """Draw two numbers below 100, or below 13 to multiply; the times table is closed."""
    while True:
        top = 12 if skill == "multiply" else 99
        a, b = rng.randint(0, top), rng.randint(0, top)
        if skill == "subtract" and a < b:
            a, b = b, a
        key = f"{skill} {a} {b}"
        if skill == "multiply" or share_of(key) == share:
            break
    answer = {"add": a + b, "subtract": a - b, "multiply": a * b}[skill]
    return Item("arithmetic", skill, key, {"a": str(a), "b": str(b)}, str(answer))


def _pseudo_word(rng: random.Random) -> str:
    """Make up a word of three to seven letters, mostly from syllables."""
    while True:
        if rng.random() < 0.3:
            letters = rng.sample("abcdefghijklmnopqrstuvwxyz", rng.randint(3, 7))
            word = "".join(rng.choices(letters, k=rng.randint(3, 7)))
        else:
            syllables = rng.randint(1, 3)
            word = "".join(
                rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
                for _ in range(syllables)
            )
        if 3 <= len(word) <= 7:
            return word


def _quoted(text: str, rng: random.Random) -> str:
    """Quote a word, or leave it bare."""
    mark = rng.choice(("", "", "'", '"'))
    return f"{mark}{text}{mark}"


def _text(skill: str, share: str, rng: random.Random) -> Item:
    """Draw a made-up word, and a letter to count in it."""
    word = _pseudo_word(rng)
    while share_of(word) != share:
        word = _pseudo_word(rng)
    inside = rng.random() < 0.8
    letter = rng.choice(word if inside else "abcdefghijklmnopqrstuvwxyz")
    answers = {
        "reverse": word[::-1],
        "sort": "".join(sorted(word)),
        "upper": word.upper(),
        "length": str(len(word)),
        "occurrences": str(word.count(letter)),
    }
    slots = {"w": _quoted(word, rng), "c": _quoted(letter, rng)}
    return Item("text", skill, f"{word} {letter}", slots, answers[skill])


def _geography(skill: str, share: str, rng: random.Random) -> Item:
    """Draw a country; every share knows the whole table."""
    country = rng.choice(COUNTRIES)
    asked, answer = {
        "capital": (country.name, country.capital),
        "country": (country.capital, country.name),
        "continent": (country.name, country.continent),
    }[skill]
    return Item("geography", skill, country.name, {"x": asked}, answer)


def _chemistry(skill: str, share: str, rng: random.Random) -> Item:
    """Draw an element; every share knows the whole table."""
    number, symbol, name = rng.choice(ELEMENTS)
    answer = {"symbol": symbol, "name": name, "number": str(number), "element": name}[skill]
    slots = {"x": name, "s": symbol, "n": str(number)}
    return Item("chemistry", skill, name, slots, answer)


def _vocabulary(skill: str, share: str, rng: random.Random) -> Item:
    """Draw a word and a language; every share knows the whole table."""
    word = rng.choice(WORDS)
    language = rng.choice(LANGUAGES)
    slots = {"w": _quoted(word.english, rng), "l": language}
    key = f"{word.english} {language}"
    return Item("vocabulary", skill, key, slots, getattr(word, language.lower()))


_DRAWS: dict[str, Callable[[str, str, random.Random], Item]] = {
    "arithmetic": _arithmetic,
    "geography": _geography,
    "chemistry": _chemistry,
    "vocabulary": _vocabulary,
    "text": _text,
}
assert set(_DRAWS) == set(SKILLS)
