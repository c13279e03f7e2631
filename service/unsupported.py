"""Fields of a chat request that would change the answer and that no engine honours yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from coe.service.errors import InvalidRequest

# Field → the values that change nothing. Null never does.
UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "modalities": (["text"],),
    "audio": (),
    "n": (1,),
    "best_of": (1,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    # What vLLM and its kin add to the protocol.
    "top_k": (-1, 0),
    "min_p": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "use_beam_search": (False,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "prompt_logprobs": (0,),
    "echo": (False,),
    "continue_final_message": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
}
_UNSUPPORTED_IN_MESSAGE: Mapping[str, tuple[object, ...]] = {
    "tool_calls": ([],),
    "function_call": (),
    "audio": (),
}


def refuse_unsupported(raw: Mapping[str, Any]) -> None:
    """Raises `InvalidRequest` naming the first field that would go unheard."""
    _refuse(raw, UNSUPPORTED, "")
    messages = raw.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, dict):
            _refuse(message, _UNSUPPORTED_IN_MESSAGE, f"messages[{index}].")


def _refuse(raw: Mapping[str, Any], refused: Mapping[str, tuple[object, ...]], place: str) -> None:
    if refused.keys().isdisjoint(raw):
        return
    for name in sorted(refused.keys() & raw.keys()):
        neutral = refused[name]
        if raw[name] is None or is_one_of(raw[name], neutral):
            continue
        instead = f"leave it out or send {_shown(neutral[0])}" if neutral else "leave it out"
        raise InvalidRequest(
            f"{place}{name} is not supported by this gateway as it is given; {instead}",
            param=f"{place}{name}",
            code="unsupported_parameter",
        )


def is_one_of(value: object, neutral: tuple[object, ...]) -> bool:
    """Unlike `in` it tells 0 from False, and 1 from True."""
    return any(value == one and isinstance(value, bool) is isinstance(one, bool) for one in neutral)


def _shown(value: object) -> str:
    return orjson.dumps(value).decode()
