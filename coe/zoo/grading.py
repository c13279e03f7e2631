"""How an answer is judged: exact match."""

__all__ = ["is_correct"]

_END = "<|end|>"


def is_correct(answer: str, completion: str) -> bool:
    """Tell whether a completion is the answer, letter for letter.

    Everything from an end marker on is cut, and white space around either side is dropped: a
    server may or may not return the marker. Case, accents and punctuation all count, because
    upper-casing, a symbol's spelling and a German noun's capital are the very things asked for.
    """
    return completion.split(_END, 1)[0].strip() == answer.strip()
