"""The order in which to submit a group: shared prefixes together, then the longest first.

All requests of a group are submitted at once; an engine with a prefix cache then computes a
prefix once if those that share it come together, and the tail of the group is short if long
requests are not left for the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

BLOCK_CHARS = 64
"""About one block of sixteen tokens; what is shared below that is not cached anyway."""


@dataclass(slots=True)
class _Node:
    """Requests that share so many blocks."""

    blocks: int
    members: list[tuple[float, int, _Node | None]] = field(default_factory=list)
    """(minus the longest length, the earliest index, the node or None for a single request)."""


def prefix_order(
    texts: Sequence[str], lengths: Sequence[float] | None = None, block: int = BLOCK_CHARS
) -> list[int]:
    """Indices of the texts in depth-first order of their prefix trie, O(n log n).

    Siblings come by the longest request below them, so a group begins with what takes longest.
    `lengths` says how long each takes, in any unit; None goes by the length of the text.
    """
    if not texts:
        return []
    if lengths is None:
        lengths = [len(text) for text in texts]
    order = sorted(range(len(texts)), key=texts.__getitem__)
    root = _Node(0)
    path = [root]
    previous, shared = "", 0
    for i in order:
        text = texts[i]
        shared = _shared_blocks(previous, text, block, shared)
        if path[-1].blocks != shared:
            _fold(path, shared)
            if path[-1].blocks < shared:
                # The request before shares more with this one than with those above it.
                path.append(_Node(shared, [path[-1].members.pop()]))
        path[-1].members.append((-lengths[i], i, None))
        previous = text
    _fold(path, -1)
    return _flat(root)


def _fold(path: list[_Node], shared: int) -> None:
    """Closes the nodes that share more blocks than that; the root is never closed."""
    while len(path) > 1 and path[-1].blocks > shared:
        node = path.pop()
        node.members.sort()
        earliest = min(member[1] for member in node.members)
        closed = (node.members[0][0], earliest, node)
        if path[-1].blocks < shared:
            path.append(_Node(shared, [closed]))
            return
        path[-1].members.append(closed)
    if shared < 0:
        path[-1].members.sort()


def _flat(root: _Node) -> list[int]:
    order: list[int] = []
    stack = [iter(root.members)]
    while stack:
        for _, index, node in stack[-1]:
            if node is not None:
                stack.append(iter(node.members))
                break
            order.append(index)
        else:
            stack.pop()
    return order


def _shared_blocks(one: str, other: str, block: int, guess: int) -> int:
    """Whole blocks of the longest common prefix, by bisection: slices compare at C speed."""
    low, high = 0, min(len(one), len(other)) // block
    if guess <= high:
        if one[: guess * block] != other[: guess * block]:
            high = guess - 1
        elif guess == high or (
            one[guess * block : (guess + 1) * block] != other[guess * block : (guess + 1) * block]
        ):
            return guess
        else:
            low = guess + 1
    while low < high:
        middle = (low + high + 1) // 2
        if one[low * block : middle * block] == other[low * block : middle * block]:
            low = middle
        else:
            high = middle - 1
    return low
