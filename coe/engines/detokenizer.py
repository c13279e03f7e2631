"""Token ids to text, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"


class Detokenizer:
    """Text as soon as it is certain: never half a character.

    Tokens whose text ends in a replacement character are held back, because the next token
    may complete the character. The pieces joined are `decode` of all ids, less a character
    that the end of the answer left incomplete; vLLM drops that one too.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        # Decoded from the last certain piece on, not from the start: some tokenizers drop the
        # space of a first token, so a piece is only right with its predecessor before it.
        self._window: list[int] = []
        self._n_shown = 0

    def push(self, token_id: int) -> str:
        self._window.append(token_id)
        text = self._fresh()
        if not text or text.endswith(_REPLACEMENT):
            return ""
        del self._window[: self._n_shown]
        self._n_shown = len(self._window)
        return text

    def flush(self) -> str:
        """What was held back and is whole, once no more tokens can come."""
        return self._fresh().rstrip(_REPLACEMENT)

    def _fresh(self) -> str:
        shown = self._decode(self._window[: self._n_shown]) if self._n_shown else ""
        return self._decode(self._window)[len(shown) :]
