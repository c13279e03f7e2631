"""Which words of a conversation decide the routing, and which conversation it is.

Agents put reminders, tool output and file dumps into user turns, and a router that reads those
sends the second step of a task to another expert than the first. `coe.service.harness_text`
knows their shapes; here is which turn counts. Any JSON is taken: what is not a message is passed
over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from coe.service.harness_text import MOST_SCANNED_CHARS, clipped, human_words

MOST_ASK_CHARS = 32 * 1024
"""An ask is its head and its tail, half of this each, where it is longer."""
# Over all turns of one request, so that no transcript holds up the others.
_MOST_SCANNED_IN_ALL = 4 * MOST_SCANNED_CHARS
_TEXT_PARTS = (None, "text", "input_text")
_DIGITS = b"0123456789"


def ask_and_key(messages: object, tenant: str) -> tuple[str, str | None]:
    """`human_ask` and `conversation_key`, at the price of one reading where there is one turn."""
    turns = list(_turns(messages))
    asked = [texts for role, texts in turns if role == "user"]
    if len(asked) != 1:
        return human_ask(messages), conversation_key(messages, tenant)
    words = next(_human_turns(asked), None)
    if words is None:
        return human_ask(messages), None
    return clipped(words, MOST_ASK_CHARS), _key(tenant, turns, words)


def human_ask(messages: object) -> str:
    """What the human asked last, of OpenAI chat messages as they came over the wire.

    1. The last user turn in which a human's words are left after taking out what a harness wrote;
       the first where the turns in between are more than can be read in time.
    2. Failing that the last user turn with any text, as it is.
    3. Failing that the last text of whatever role; else nothing.
    """
    turns = list(_turns(messages))
    asked = [texts for role, texts in turns if role == "user"]
    words = next(_human_turns(reversed(asked)), "") or next(_human_turns(asked), "")  # 1
    if not words and asked:
        words = "\n".join(asked[-1])  # 2
    if not words and turns:
        words = "\n".join(turns[-1][1])  # 3
    return clipped(words, MOST_ASK_CHARS)


def conversation_key(messages: object, tenant: str) -> str | None:
    """Names the conversation: the same for its first turn and for every later one.

    Made of the tenant, the system prompt and the first human turn, so that conversations of
    different tenants never share a key, and two of one tenant do where both begin alike. Digits
    in the system prompt do not count: many carry a clock. None where no human spoke.
    """
    turns = list(_turns(messages))
    first = next(_human_turns(texts for role, texts in turns if role == "user"), None)
    return None if first is None else _key(tenant, turns, first)


def _key(tenant: str, turns: Sequence[tuple[str, list[str]]], first: str) -> str:
    fields = (_bytes(tenant), _system(turns), _bytes(first))
    # Lengths keep what is in one field out of the next.
    told = b"".join(b"%d:%b" % (len(field), field) for field in fields)
    return hashlib.sha256(told).hexdigest()


def _system(turns: Iterable[tuple[str, Sequence[str]]]) -> bytes:
    """What was said before the first user turn by system and developer."""
    said: list[str] = []
    for role, texts in turns:
        if role == "user":
            break
        if role in ("system", "developer"):
            said += texts
    return _bytes("\n".join(said)).translate(None, _DIGITS)


def _human_turns(turns: Iterable[Sequence[str]]) -> Iterator[str]:
    """The human's words of each turn that has any, as far as the scan's bound allows."""
    n_left = _MOST_SCANNED_IN_ALL
    for texts in turns:
        n_left -= sum(min(len(text), MOST_SCANNED_CHARS) for text in texts)
        words = human_words(texts)
        if words:
            yield words
        if n_left < 0:
            return


def _turns(messages: object) -> Iterator[tuple[str, list[str]]]:
    """Role and text parts of each message that has text."""
    for message in messages if isinstance(messages, list | tuple) else ():
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            continue
        content = message.get("content")
        said = (content,) if isinstance(content, str) else _texts(content)
        texts = [text for text in said if text and not text.isspace()]
        if texts:
            yield message["role"], texts


def _texts(content: object) -> Iterator[str]:
    for part in content if isinstance(content, list | tuple) else ():
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict) and part.get("type") in _TEXT_PARTS:
            text = part.get("text")
            if isinstance(text, str):
                yield text


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
