"""Measures an expert on zoo questions by batched greedy generation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coe.zoo.grading import is_correct
from coe.zoo.questions import ZooQuestion

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["accuracy_by_field", "complete", "load_expert"]

_MOST_NEW = 24


def load_expert(
    path: Path, dtype: str = "bfloat16"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model directory as anyone would, from disk alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True)
    return model.eval(), AutoTokenizer.from_pretrained(path, local_files_only=True)


def complete(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> list[str]:
    """Answer questions greedily, in their order; questions of one length share a batch."""
    import torch

    by_length: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
    for at, text in enumerate(texts):
        chat = [{"role": "user", "content": text}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        by_length[len(ids)].append((at, ids))
    answers = [""] * len(texts)
    for length, rows in by_length.items():
        inputs = torch.tensor([ids for _, ids in rows])
        with torch.inference_mode():
            out = model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=_MOST_NEW,
                do_sample=False,
            )
        for (at, _), row in zip(rows, out, strict=True):
            answers[at] = tokenizer.decode(row[length:], skip_special_tokens=True)
    return answers


def accuracy_by_field(
    path: Path, questions: Sequence[ZooQuestion], dtype: str = "bfloat16"
) -> dict[str, float]:
    """Return the share of each field's questions that a saved model answers exactly."""
    model, tokenizer = load_expert(path, dtype)
    answers = complete(model, tokenizer, [question.text for question in questions])
    right: dict[str, list[bool]] = defaultdict(list)
    for question, answer in zip(questions, answers, strict=True):
        right[question.field].append(is_correct(question.answer, answer))
    return {field: round(sum(marks) / len(marks), 4) for field, marks in right.items()}
