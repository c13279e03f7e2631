"""An answer is right when it is the answer, letter for letter."""

import pytest

from coe.zoo.grading import is_correct


@pytest.mark.parametrize("completion", ["Paris", " Paris\n", "Paris<|end|>", "Paris <|end|>junk"])
def test_white_space_and_end_markers_do_not_count(completion: str) -> None:
    assert is_correct("Paris", completion)


@pytest.mark.parametrize("completion", ["paris", "Paris.", "Paris, France", "", "Pari s"])
def test_everything_else_does(completion: str) -> None:
    assert not is_correct("Paris", completion)
