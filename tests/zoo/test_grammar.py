"""Patterns expand to all they stand for, and restyling leaves slots alone."""

import random

from coe.zoo.grammar import expand, fill, restyle


def test_a_pattern_without_groups_is_its_own_expansion() -> None:
    assert expand("capital of {x}") == ("capital of {x}",)


def test_groups_multiply_and_spare_spaces_go() -> None:
    found = expand("(the |)(capital|city) (of|) {x}")
    assert len(found) == 8
    assert "the capital of {x}" in found
    assert "city {x}" in found


def test_fill_puts_values_into_their_slots() -> None:
    assert fill("{a} + {b}", {"a": "1", "b": "2"}) == "1 + 2"


def test_restyling_never_touches_a_slot() -> None:
    rng = random.Random(7)
    for _ in range(500):
        styled = restyle("how many {c} are in {w}", rng, typos=1.0)
        assert "{c}" in styled
        assert "{w}" in styled
