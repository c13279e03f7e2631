"""Texts of others inside a prompt: delimited, capped, and unable to leave their delimiters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from coe.types import GenerationRequest, Message

# White space, and what nobody sees: a reader takes a tag with such in it for a tag. One class, so
# that no text takes long.
_BLANKS = r"[\s/\u00ad\u200b-\u200f\u2060-\u2064\ufeff]*"
_CUT = "\n[…]\n"


def blocks(tag: str, texts: Sequence[str], max_chars: int) -> str:
    """Each text in an element of its own, numbered from 1.

    Whatever in a text looks like such a tag, to a reader that overlooks what cannot be seen, loses
    its bracket to `&lt;`; nothing else is changed, so that code and formulas stay readable.
    """
    tags = re.compile(rf"[<\uff1c](?={_BLANKS}{re.escape(tag)}\b)", re.IGNORECASE)
    parts = (
        f'<{tag} number="{i}">\n{tags.sub("&lt;", capped(text.strip(), max_chars))}\n</{tag}>'
        for i, text in enumerate(texts, start=1)
    )
    return "\n".join(parts)


def capped(text: str, max_chars: int) -> str:
    """At most so many characters; the middle goes first, for answers stand at the ends."""
    if len(text) <= max_chars:
        return text
    kept = max_chars - len(_CUT)
    if kept < 2:
        return text[-max_chars:]
    return text[: kept // 2] + _CUT + text[-(kept - kept // 2) :]


def with_last_turn(request: GenerationRequest, text: str) -> GenerationRequest:
    """The request with `text` added to its last message: no turn more, which templates refuse."""
    if not request.messages:
        return replace(request, messages=(Message("user", text),))
    *before, last = request.messages
    joined = Message(last.role, f"{last.content}\n\n{text}")
    return replace(request, messages=(*before, joined))
