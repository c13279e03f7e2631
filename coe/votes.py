"""When a vote is decided: the arithmetic that policies and aggregators share."""

from __future__ import annotations

from collections.abc import Mapping


def folded(text: str) -> str:
    """A whole completion as an answer: without case and outer white space."""
    return text.strip().casefold()


def is_settled(votes: Mapping[int, str | None], n_asked: int) -> bool:
    """Whether a majority vote of `n_asked` experts can no longer change, so the rest may stop.

    `votes` holds, by rank from 0, what the experts that are done answered; None is no vote. Equal
    counts go to the answer whose best expert ranks first. Experts asked in turn rank in that order.
    """
    counts: dict[str, int] = {}
    best_rank: dict[str, int] = {}
    for rank in sorted(votes):
        answer = votes[rank]
        if answer is not None:
            counts[answer] = counts.get(answer, 0) + 1
            best_rank.setdefault(answer, rank)
    missing = [rank for rank in range(n_asked) if rank not in votes]
    if not missing:
        return True
    if not counts:
        return False
    leader = max(counts, key=lambda answer: counts[answer])

    def is_beaten(count: int, rank: int) -> bool:
        level = counts[leader] == count
        return counts[leader] < count or (level and rank < best_rank[leader])

    # At worst all that is missing votes for one rival, or for an answer not heard yet.
    rivals = [
        (counts[answer] + len(missing), min(best_rank[answer], missing[0]))
        for answer in counts
        if answer != leader
    ]
    return not any(is_beaten(*rival) for rival in (*rivals, (len(missing), missing[0])))
