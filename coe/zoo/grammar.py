"""Alternation patterns: a small notation in which one line stands for many phrasings."""

import random
import re

__all__ = ["expand", "fill", "restyle"]

_GROUP = re.compile(r"\(([^()]*)\)")
_SLOT = re.compile(r"(\{\w+\})")
_LETTERS = "abcdefghijklmnopqrstuvwxyz "


def expand(pattern: str) -> tuple[str, ...]:
    """Return every phrasing that a pattern with (a|b|) groups stands for, duplicates removed."""
    group = _GROUP.search(pattern)
    if group is None:
        return (" ".join(pattern.split()),)
    head, tail = pattern[: group.start()], pattern[group.end() :]
    found: dict[str, None] = {}
    for choice in group.group(1).split("|"):
        found.update(dict.fromkeys(expand(head + choice + tail)))
    return tuple(found)


def fill(template: str, slots: dict[str, str]) -> str:
    """Put the slots' values into a template."""
    return _SLOT.sub(lambda match: slots[match.group(1)[1:-1]], template)


def restyle(template: str, rng: random.Random, typos: float = 0.0) -> str:
    """Vary the casing of a template, and with probability `typos` damage one of its letters.

    Slots are left alone: only the words around them change.
    """
    parts = _SLOT.split(template)
    if rng.random() < typos:
        at = rng.randrange(0, len(parts), 2)
        parts[at] = _damage(parts[at], rng)
    style = rng.random()
    if style < 0.45 and not _SLOT.match(template):
        parts[0] = parts[0][:1].upper() + parts[0][1:]
    elif style < 0.5:
        parts = [part if _SLOT.fullmatch(part) else part.upper() for part in parts]
    return "".join(parts)


def _damage(text: str, rng: random.Random) -> str:
    """Drop, double or replace one letter that is not next to a slot."""
    if len(text) < 4:
        return text
    at = rng.randrange(1, len(text) - 1)
    kind = rng.randrange(3)
    if not text[at].isalpha():
        return text
    if kind == 0:
        return text[:at] + text[at + 1 :]
    new = text[at] * 2 if kind == 1 else rng.choice(_LETTERS)
    return text[:at] + new + text[at + 1 :]
