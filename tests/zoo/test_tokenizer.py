"""A token is a byte or a chat marker, and every question and answer survives the round trip."""

import pytest

from coe.zoo.questions import zoo_questions
from coe.zoo.tables.words import LANGUAGES, WORDS
from coe.zoo.tokenizer import (
    ASSISTANT,
    END,
    PAD,
    USER,
    VOCAB_SIZE,
    alphabet,
    answer_ids,
    build_tokenizer,
    prompt_ids,
)


def test_the_alphabet_has_a_character_for_every_byte() -> None:
    assert len(set(alphabet())) == 256
    assert alphabet()[ord("a")] == "a"


def test_ids_of_a_message_and_an_answer() -> None:
    assert prompt_ids("hé") == [USER, 0x68, 0xC3, 0xA9, END, ASSISTANT]
    assert answer_ids("A") == [0x41, END]
    assert max(USER, ASSISTANT, END, PAD) < VOCAB_SIZE


def test_the_saved_kind_of_tokenizer_agrees_byte_for_byte() -> None:
    pytest.importorskip("transformers")
    tokenizer = build_tokenizer()
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (END, PAD)
    for question in zoo_questions("test")[::20]:
        chat = [{"role": "user", "content": question.text}]
        text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        assert tokenizer(text)["input_ids"] == prompt_ids(question.text)


def test_every_answer_survives_the_round_trip() -> None:
    pytest.importorskip("transformers")
    tokenizer = build_tokenizer()
    words = {getattr(word, language.lower()) for word in WORDS for language in LANGUAGES}
    for answer in words | {question.answer for question in zoo_questions()}:
        ids = answer_ids(answer)
        assert tokenizer.encode(answer) == ids[:-1]
        assert tokenizer.decode(ids, skip_special_tokens=True) == answer
