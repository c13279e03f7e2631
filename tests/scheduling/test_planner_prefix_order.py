"""The order of submission: prefixes together, longest first."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from coe.scheduling.prefix_order import prefix_order

TEXTS = st.lists(st.text(alphabet="ab", max_size=9), max_size=30)


def trie_order(texts: list[str], indices: list[int], depth: int, block: int) -> list[int]:
    """The same order by recursion over the trie itself."""
    children: dict[str, list[int]] = {}
    single: list[list[int]] = []
    for i in indices:
        head = texts[i][depth * block : (depth + 1) * block]
        if len(head) < block:
            single.append([i])
        else:
            children.setdefault(head, []).append(i)
    groups = single + [trie_order(texts, group, depth + 1, block) for group in children.values()]

    def worth(group: list[int]) -> tuple[int, int]:
        return -max(len(texts[i]) for i in group), min(group)

    return [i for group in sorted(groups, key=worth) for i in group]


@given(texts=TEXTS, block=st.integers(1, 3))
def test_order_is_the_trie_walked_by_longest_first(texts: list[str], block: int) -> None:
    expected = trie_order(texts, list(range(len(texts))), 0, block)
    assert prefix_order(texts, block=block) == expected


@given(texts=TEXTS)
def test_those_who_share_blocks_are_neighbours(texts: list[str]) -> None:
    order = prefix_order(texts, block=2)
    for depth in range(1, 5):
        heads = [texts[i][: 2 * depth] for i in order if len(texts[i]) >= 2 * depth]
        runs = [h for k, h in enumerate(heads) if k == 0 or heads[k - 1] != h]
        assert len(runs) == len(set(runs))


def test_given_lengths_decide_instead_of_the_texts() -> None:
    assert prefix_order(["a", "bbbb", "cc"], lengths=[1.0, 2.0, 9.0]) == [2, 1, 0]
    assert prefix_order([]) == []


def test_longest_come_first_within_a_prefix_and_between() -> None:
    system, other = "s" * 64, "t" * 64
    texts = [system + "short", other + "x" * 50, system + "y" * 90, "z" * 10]
    assert prefix_order(texts) == [2, 0, 1, 3]


def test_a_hundred_thousand_requests_take_about_a_second() -> None:
    texts = [
        ("p" * 700 + str(i % 50)) * (1 + i % 2) + str(i * 7919 % 100_003) for i in range(100_000)
    ]
    begun = time.process_time()
    order = prefix_order(texts)
    assert time.process_time() - begun < 3.0  # Measured at a third of it; machines differ.
    assert sorted(order) == list(range(len(texts)))
