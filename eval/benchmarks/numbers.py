r"""Numbers as people write them: `1,024`, `-3.5`, `1.2e-4`, `\frac{3}{4}`, `6 \times 10^4`."""

from __future__ import annotations

import math
import re
from fractions import Fraction

_PLAIN = r"[-+]?(?:\d{1,3}(?:(?:,|\{,\})\d{3})+|\d+)?(?:\.\d+)?(?:[eE][-+]?\d+)?"
_NUMBER = re.compile(_PLAIN)
_FRACTION = re.compile(r"([-+]?)\\[dt]?frac\{([^{}]+)\}\{([^{}]+)\}|([-+]?\d+)\s*/\s*(\d+)")
_POWER = re.compile(rf"({_PLAIN})\s*(?:\\times|\\cdot|×|\*)\s*10\s*\^\s*\{{?\s*([-+]?\d+)\s*\}}?")
_NOISE = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\{[^{}]*\}|\\[,;! ]|[$€£*`]|\^?\\circ|°")
_ASIDE = re.compile(r"\([^()]*\)")
_LONGEST = 400


def read_number(said: str) -> float | None:
    """The only number of a short text, units around it or not; None if there is none, or several.

    A per cent sign is a unit like others.
    """
    text = said[:_LONGEST].replace("−", "-")
    for pattern, value in ((_FRACTION, _fraction), (_POWER, _power)):
        found = list(pattern.finditer(text))
        if found:
            alone = len(found) == 1 and not _numbers(_NOISE.sub("", pattern.sub(" ", text)))
            return value(found[0]) if alone else None
    numbers = set(_numbers(_NOISE.sub("", text)))
    return numbers.pop() if len(numbers) == 1 else None


def accepted_numbers(gold: str) -> tuple[float, ...] | None:
    """The numbers that count, as in "80 or 81 (both were accepted)"; None if one is not read."""
    said = [read_number(part) for part in re.split(r"\bor\b", _ASIDE.sub("", gold))]
    numbers = tuple(number for number in said if number is not None)
    return numbers if len(numbers) == len(said) else None


def is_same_number(said: float, gold: float, tolerance: float = 1e-6) -> bool:
    """Within a relative tolerance; of zero within an absolute one."""
    return math.isclose(said, gold, rel_tol=tolerance, abs_tol=tolerance if gold == 0 else 0.0)


def _numbers(text: str) -> list[float]:
    found = (match[0] for match in _NUMBER.finditer(text))
    return [_float(word) for word in found if any(c.isdigit() for c in word)]


def _float(word: str) -> float:
    return float(re.sub(r"\{,\}|,", "", word))


def _fraction(match: re.Match[str]) -> float | None:
    sign, over, under, plain_over, plain_under = match.groups()
    top, bottom = (plain_over, plain_under) if over is None else (over, under)
    try:
        value = float(Fraction(top.strip()) / Fraction(bottom.strip()))
    except (ValueError, ZeroDivisionError):
        return None
    return -value if sign == "-" else value


def _power(match: re.Match[str]) -> float | None:
    try:
        return _float(match[1]) * 10.0 ** int(match[2])
    except (ValueError, OverflowError):
        return None
