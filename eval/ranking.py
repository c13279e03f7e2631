"""How good a ranking is: nDCG@k and recall@k of one query each, as trec_eval computes them.

Linear gain over a log2 discount, divided by that of the ideal order of all judged documents: the
BEIR convention. Equal scores are ordered by document id, backwards, which is trec_eval's rule, so
that a number is the same whichever tool computes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log2

from coe.errors import DatasetError

Qrels = Mapping[str, int]
"""Document id → relevance; what is not listed or at most 0 is not relevant."""


def ranked(scores: Mapping[str, float]) -> list[str]:
    """The document ids of a run, best first."""
    return sorted(scores, key=lambda id_: (scores[id_], id_), reverse=True)


def ndcg(found: Sequence[str], relevant: Qrels, k: int = 10) -> float:
    """Of the documents found, best first."""
    ideal = _gain(sorted((r for r in relevant.values() if r > 0), reverse=True)[:k])
    if ideal == 0:
        raise DatasetError("a query without any relevant document has no nDCG; leave it out")
    return _gain([max(relevant.get(id_, 0), 0) for id_ in found[:k]]) / ideal


def recall(found: Sequence[str], relevant: Qrels, k: int = 100) -> float:
    """The share of the relevant documents among the first k found."""
    wanted = {id_ for id_, relevance in relevant.items() if relevance > 0}
    if not wanted:
        raise DatasetError("a query without any relevant document has no recall; leave it out")
    return len(wanted.intersection(found[:k])) / len(wanted)


def _gain(relevances: Sequence[int]) -> float:
    return sum(relevance / log2(i + 2) for i, relevance in enumerate(relevances))
