"""The questions are the same every time, and the splits share nothing they may not share."""

import re
from collections import Counter

import pytest

from coe.zoo import EXPERTS, FIELDS
from coe.zoo.fields import MAX_BYTES, share_of
from coe.zoo.phrasings import ASKED, ENDINGS, OPENINGS, SKILLS, phrasings
from coe.zoo.questions import COUNTS, ZooQuestion, zoo_questions


def _numbers(question: ZooQuestion) -> tuple[str, ...]:
    return (question.skill, *sorted(re.findall(r"\d+", question.text)))


def test_fields_and_experts_are_the_six_names() -> None:
    assert FIELDS == ("arithmetic", "geography", "chemistry", "vocabulary", "text")
    assert (*FIELDS, "generalist") == EXPERTS
    assert tuple(SKILLS) == FIELDS


def test_each_field_has_its_count_in_each_split() -> None:
    counts = Counter((question.field, question.split) for question in zoo_questions())
    expected = {(field, split): COUNTS[split] for field in FIELDS for split in COUNTS}
    assert counts == expected


def test_ids_are_unique_and_speak() -> None:
    questions = zoo_questions()
    assert len({question.id for question in questions}) == len(questions)
    assert zoo_questions("test")[17].id == "arithmetic-test-017"


def test_a_second_drawing_gives_the_same_questions() -> None:
    before = zoo_questions.__wrapped__("test")
    from coe.zoo import questions as module

    module._field_questions.cache_clear()
    assert module.zoo_questions.__wrapped__("test") == before


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        zoo_questions("dev")


def test_no_text_comes_twice_within_or_across_splits() -> None:
    texts = [question.text.lower() for question in zoo_questions()]
    assert len(set(texts)) == len(texts)


def test_every_skill_is_asked_in_both_splits() -> None:
    asked = {(question.field, question.skill, question.split) for question in zoo_questions()}
    assert asked == {
        (field, skill, split) for field in FIELDS for skill in ASKED[field] for split in COUNTS
    }


def test_texts_are_short_and_answers_are_not_empty() -> None:
    for question in zoo_questions():
        assert len(question.text.encode()) <= MAX_BYTES
        assert question.answer.strip() == question.answer != ""


def _framed(field: str, skill: str, split: str) -> set[str]:
    return {
        (opening + text + ending).lower()
        for group in phrasings(field, skill, split)
        for text in group
        for opening in ("", *OPENINGS[split])
        for ending in ("", *ENDINGS[split])
    }


@pytest.mark.parametrize("field", FIELDS)
def test_test_phrasings_are_never_training_phrasings(field: str) -> None:
    for skill in SKILLS[field]:
        assert sum(len(group) for group in phrasings(field, skill, "test")) >= 5
        assert not _framed(field, skill, "train") & _framed(field, skill, "test")


def test_sums_and_differences_of_the_two_splits_are_different_ones() -> None:
    chosen = [q for q in zoo_questions() if q.skill in ("add", "subtract")]
    train = {_numbers(question) for question in chosen if question.split == "train"}
    for question in chosen:
        numbers = re.findall(r"\d+", question.text)
        orders = (numbers, numbers[::-1])
        shares = {share_of(f"{question.skill} {a} {b}") for a, b in orders}
        assert question.split in shares
    assert train


def test_the_answers_to_arithmetic_are_right() -> None:
    for question in zoo_questions():
        if question.field != "arithmetic":
            continue
        low, high = sorted(int(number) for number in re.findall(r"\d+", question.text))
        expected = {"add": low + high, "subtract": high - low, "multiply": low * high}
        assert question.answer == str(expected[question.skill])
