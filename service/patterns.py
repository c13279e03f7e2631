"""Whether a regular expression is safe to hand to an expert's decoder.

Its automaton may take memory or time exponential in the pattern: one unbounded repetition within
another makes a backtracking matcher explode, and counted ones within each other multiply states.
The pattern is read once from left to right and never compiled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_COUNTED = re.compile(r"\{(\d{0,9}+)(?:(,)(\d{0,9}+))?\}")
_GROUP_HEAD = re.compile(r"\?(?:[:=!>|]|<[=!]|P?<\w{1,64}+>|[a-zA-Z-]{1,12}+[:)])")
MOST_STATES = 10_000
"""What the counted repetitions of a pattern may come to when they are written out."""


@dataclass(slots=True)
class _Sequence:
    """What has been read of a group, or of the pattern itself."""

    n_states: int = 0
    repeats_unboundedly: bool = False
    last_states: int = 0
    last_repeats: bool = False
    """Of the last atom, which a quantifier after it applies to."""

    def add(self, n_states: int, repeats: bool) -> None:
        self.n_states += n_states
        self.repeats_unboundedly |= repeats
        self.last_states, self.last_repeats = n_states, repeats

    def repeat(self, times: int, is_unbounded: bool) -> None:
        self.n_states += self.last_states * (max(times, 1) - 1)
        self.last_states *= max(times, 1)
        self.last_repeats |= is_unbounded
        self.repeats_unboundedly |= is_unbounded


def pattern_trouble(pattern: str) -> str | None:
    """What is wrong with the pattern, in words to follow its name; None: nothing.

    Only what makes it dangerous: that it is a pattern at all is for the expert to say.
    """
    open_groups = [_Sequence()]
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == "(":
            head = _GROUP_HEAD.match(pattern, position)
            position = head.end() if head else position
            open_groups.append(_Sequence())
        elif char == ")" and len(open_groups) > 1:
            group = open_groups.pop()
            open_groups[-1].add(group.n_states, group.repeats_unboundedly)
        elif char in "*+?{":
            position, trouble = _quantified(pattern, position - 1, open_groups[-1])
            if trouble:
                return trouble
        elif char not in "|^$":
            position = _past_atom(pattern, position - 1)
            open_groups[-1].add(1, False)
    n_states = sum(group.n_states for group in open_groups)
    if n_states > MOST_STATES:
        return f"comes to {n_states} characters when its repetitions are written out, over " + str(
            MOST_STATES
        )
    return None


def _quantified(pattern: str, position: int, sequence: _Sequence) -> tuple[int, str | None]:
    """Reads the quantifier there. Returns where it ends, and what is wrong with it."""
    char = pattern[position]
    times, is_unbounded, end = 1, char in "*+", position + 1
    if char == "{":
        counted = _COUNTED.match(pattern, position)
        if counted is None or not (counted[1] or counted[3]):
            sequence.add(1, False)
            return end, None
        least, comma, most = counted.groups()
        times, is_unbounded = int(most or least or 0), bool(comma and not most)
        end = counted.end()
    if is_unbounded and sequence.last_repeats:
        return end, "repeats without bound what already repeats without bound"
    sequence.repeat(times, is_unbounded)
    # `a+?` and `a++` are one quantifier each.
    if end < len(pattern) and pattern[end] in "?+":
        end += 1
    return end, None


def _past_atom(pattern: str, position: int) -> int:
    """Where the character, escape or class that begins there ends."""
    char = pattern[position]
    if char == "\\":
        return position + 2
    if char != "[":
        return position + 1
    # A bracket right after the opening is a member of the class.
    position += 2 if pattern.startswith("^", position + 1) else 1
    position += pattern.startswith("]", position)
    while position < len(pattern) and pattern[position] != "]":
        position += 2 if pattern[position] == "\\" else 1
    return position + 1
