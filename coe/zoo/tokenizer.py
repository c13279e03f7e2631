"""The zoo's tokenizer: one token per byte and one per chat marker, shared by all six models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "ASSISTANT",
    "CHAT_TEMPLATE",
    "END",
    "PAD",
    "SPECIALS",
    "SYSTEM",
    "USER",
    "VOCAB_SIZE",
    "alphabet",
    "answer_ids",
    "build_tokenizer",
    "prompt_ids",
    "save_tokenizer",
]

SPECIALS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
PAD, END, SYSTEM, USER, ASSISTANT = range(256, 261)
# Three spare rows keep the embedding a multiple of eight, as CPU and GPU kernels like it.
VOCAB_SIZE = 264
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def alphabet() -> tuple[str, ...]:
    """Return the printable character by which the ByteLevel scheme writes each byte 0..255."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return tuple(chr(byte) if byte in keep else chr(next(spare)) for byte in range(256))


def prompt_ids(text: str) -> list[int]:
    """Return the ids of one user message followed by the assistant marker."""
    return [USER, *text.encode(), END, ASSISTANT]


def answer_ids(text: str) -> list[int]:
    """Return the ids of an answer and the marker that ends it."""
    return [*text.encode(), END]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer as transformers saves and serves it; byte b has id b."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {char: byte for byte, char in enumerate(alphabet())}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(mark, special=True) for mark in SPECIALS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_tokenizer(path: Path) -> None:
    """Write the tokenizer's files into a model directory.

    The class is recorded by the name that every transformers release knows, not by the one that
    the release writing it happens to prefer.
    """
    build_tokenizer().save_pretrained(path)
    config = path / "tokenizer_config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings.pop("backend", None)
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
