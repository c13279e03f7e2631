"""How many tokens an answer may have: the one rule, shared by engines that count tokens."""

from __future__ import annotations

from coe.errors import ContextOverflow, RequestError
from coe.experts import Expert
from coe.types import SamplingParams


def answer_room(
    expert: Expert, prompt_tokens: int, params: SamplingParams, context_tokens: int | None = None
) -> int:
    """The most tokens this request may generate, at least one.

    A number the caller named is a promise: if prompt and number do not fit together the
    request is refused with `ContextOverflow`. Without one the answer gets the expert's own
    limit or what is left of the context, whichever is less. `context_tokens` replaces the
    expert's where the model itself can take less.
    """
    if params.max_tokens is not None and params.max_tokens < 1:
        raise RequestError(
            f"max_tokens is {params.max_tokens}; ask for at least 1", param="max_tokens"
        )
    context = expert.context_tokens if context_tokens is None else context_tokens
    needed = prompt_tokens + (params.max_tokens or 1)
    if needed > context:
        # Without a number of the caller's, one token is only the shortest answer there is.
        raise ContextOverflow(expert.id, needed, context, is_lower_bound=params.max_tokens is None)
    return params.max_tokens or min(expert.max_tokens, context - prompt_tokens)
