"""What the models learn from holds no held-out item, no test wording and no zoo question."""

import itertools
import random

import pytest

from coe.zoo import FIELDS
from coe.zoo.corpus import batches, examples
from coe.zoo.fields import draw_item, share_of
from coe.zoo.phrasings import SKILLS
from coe.zoo.questions import zoo_questions
from coe.zoo.recipes import RECIPES
from coe.zoo.tokenizer import PAD, answer_ids, prompt_ids


@pytest.mark.parametrize("field", FIELDS)
def test_no_example_is_a_zoo_question(field: str) -> None:
    taken = {question.text.lower() for question in zoo_questions()}
    for example in itertools.islice(examples(((field, 1.0),), 5), 2000):
        assert example.field == field
        assert example.text.lower() not in taken


@pytest.mark.parametrize("skill", ["add", "subtract"])
def test_no_held_out_operands_are_drawn_for_training(skill: str) -> None:
    rng = random.Random(3)
    for _ in range(1000):
        item = draw_item("arithmetic", skill, "expert", rng)
        assert share_of(item.key) == "expert"
        assert share_of(f"{skill} {item.slots['a']} {item.slots['b']}") == "expert"


@pytest.mark.parametrize("skill", SKILLS["text"])
def test_no_held_out_word_is_drawn_for_training(skill: str) -> None:
    rng = random.Random(4)
    for share in ("expert", "train", "test"):
        for _ in range(200):
            item = draw_item("text", skill, share, rng)
            assert share_of(item.slots["w"].strip("'\"")) == share


def test_the_stream_is_the_same_for_the_same_seed() -> None:
    mixture = RECIPES["generalist"].mixture
    first = list(itertools.islice(examples(mixture, 9), 50))
    assert first == list(itertools.islice(examples(mixture, 9), 50))
    assert first != list(itertools.islice(examples(mixture, 10), 50))
    assert {example.field for example in first} == set(FIELDS)


def test_labels_cover_the_answer_and_its_end_only() -> None:
    batch = next(batches((("chemistry", 1.0),), 2, 8))
    sources = {
        tuple((prompt_ids(e.text) + answer_ids(e.answer))[:-1]): answer_ids(e.answer)
        for e in itertools.islice(examples((("chemistry", 1.0),), 2), 8 * 12)
    }
    for ids, labels in zip(batch.ids, batch.labels, strict=True):
        assert len(ids) == len(labels)
        answer = sources[tuple(itertools.takewhile(lambda token: token != PAD, ids))]
        assert [label for label in labels if label >= 0] == answer
