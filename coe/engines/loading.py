"""A model directory, loaded by transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from coe.engines.kv_cache import is_joinable
from coe.errors import ContextOverflow, RequestError
from coe.experts import Expert, LocalSpec
from coe.types import Message

_NO_LIMIT = int(1e30)  # What transformers itself takes for none.


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A network with its tokenizer, and what they say about themselves."""

    expert: Expert
    network: Any
    tokenizer: Any
    end_ids: frozenset[int]
    """Tokens that end an answer."""
    context_tokens: int
    """What the expert and the network can both take."""
    max_batch: int
    longest_token_bytes: int
    """No token stands for more bytes of text than this."""

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The prompt, up to where the answer begins. Raises `RequestError`.

        Text that cannot fit the context is refused unread: reading megabytes takes seconds.
        """
        from jinja2 import TemplateError

        self._check_length(messages)
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            ids: list[int] = self.tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except TemplateError as error:
            raise RequestError(
                f"expert {self.expert.id!r} cannot read these messages: {error}", param="messages"
            ) from None
        return ids

    def _check_length(self, messages: Sequence[Message]) -> None:
        try:
            n_bytes = sum(len(message.content.encode()) for message in messages)
        except UnicodeEncodeError as error:
            raise RequestError(
                f"expert {self.expert.id!r} cannot read these messages: they are no valid "
                f"Unicode ({error.reason}); send text without lone surrogates",
                param="messages",
            ) from None
        least_tokens = ceil(n_bytes / self.longest_token_bytes)
        if least_tokens > self.context_tokens:
            raise ContextOverflow(
                self.expert.id, least_tokens, self.context_tokens, is_lower_bound=True
            )

    def decode(self, token_ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(
            token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


def load_model(expert: Expert, spec: LocalSpec, threads: int) -> LoadedModel:
    """Loads from the folder alone: no hub, no code of the model's own. Blocks for seconds.

    `threads` is set for the whole process; torch knows no smaller scope.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    # Its own limit only makes it warn; whether a prompt fits is decided by `answer_room`.
    tokenizer = AutoTokenizer.from_pretrained(
        spec.path, local_files_only=True, model_max_length=_NO_LIMIT
    )
    if not tokenizer.chat_template:
        raise ValueError(f"{spec.path} has no chat template; experts are asked in messages")
    dtype = "auto" if spec.dtype == "auto" else getattr(torch, spec.dtype)
    with _no_progress_bar():
        network = AutoModelForCausalLM.from_pretrained(
            spec.path, dtype=dtype, local_files_only=True, use_safetensors=True
        )
    network.eval().to(spec.device)
    limit = getattr(network.config, "max_position_embeddings", None) or expert.context_tokens
    return LoadedModel(
        expert,
        network,
        tokenizer,
        _end_ids(network, tokenizer),
        min(limit, expert.context_tokens),
        spec.max_batch if is_joinable(network) else 1,
        # UTF-8 is never shorter than the text a token stands for, whatever alphabet the
        # tokenizer writes it in.
        max(len(token.encode()) for token in tokenizer.get_vocab()),
    )


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """A server's log is no place for one, and transformers has no other switch."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def is_model_folder(path: str) -> bool:
    return (Path(path) / "config.json").is_file()


def _end_ids(network: Any, tokenizer: Any) -> frozenset[int]:
    """The tokenizer's and the generation settings' end tokens: vLLM too ends at either."""
    configured = network.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(id_ for id_ in (*listed, tokenizer.eos_token_id) if id_ is not None)
