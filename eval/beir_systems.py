"""Retrieval systems measured on collections: nDCG@10 and recall@100 of every test query.

What is trained sees documents and the queries of the fit split; what routes sees how the experts
do on those queries and on pairs held out from training; queries of the judged split are only
judged. The two oracles are no systems but bounds: they choose by the judgements themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from coe.errors import DatasetError
from coe.eval.lexical import Bm25
from coe.eval.ranking import Qrels, ndcg, ranked, recall
from coe.outcomes import FloatArray, OutcomeTable
from coe.retrieval.adapter import LinearAdapter
from coe.retrieval.collection import Collection
from coe.retrieval.domains import Domain, train_expert, train_multitask
from coe.retrieval.retriever import ExpertIndex, RouterRetriever
from coe.retrieval.training import Recipe, Trained
from coe.routers.pilots import PilotsScorer
from coe.routing import Encoder

K_NDCG, K_RECALL = 10, 100
LEAST_SHARE = 0.2
"""Of a domain's instances that an expert must win to have a pilot there. Chosen by routing one
half of the training queries with pilots of the other."""
MOST_INSTANCES = 100
"""Of a domain without training queries: pairs held out from training stand in for them."""

BASE, BM25, MULTITASK, ROUTED = "base encoder", "BM25", "multi-task expert", "RouterRetriever"
EVERY_PILOT = "RouterRetriever, every pilot"
"""As in the paper: also those of groups of a few queries."""
DATASET_ORACLE, INSTANCE_ORACLE = "data-set oracle", "instance oracle"

Advance = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """One system on one collection."""

    ndcg: FloatArray
    """(n_queries,) at 10."""
    recall: FloatArray
    """(n_queries,) at 100."""

    @classmethod
    def of(cls, found: Sequence[Sequence[str]], relevant: Sequence[Qrels]) -> Judged:
        both = list(zip(found, relevant, strict=True))
        return cls(
            np.array([ndcg(ids, qrels, K_NDCG) for ids, qrels in both]),
            np.array([recall(ids, qrels, K_RECALL) for ids, qrels in both]),
        )

    @classmethod
    def chosen(cls, parts: Sequence[Judged], choices: Sequence[int]) -> Judged:
        """Each query as the part of that number has it."""
        rows = np.arange(len(choices))
        picked = np.array(choices, dtype=np.intp)
        return cls(
            np.stack([part.ndcg for part in parts])[picked, rows],
            np.stack([part.recall for part in parts])[picked, rows],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Every system on every collection."""

    collections: tuple[str, ...]
    systems: Mapping[str, Mapping[str, Judged]]
    """System → collection → what it scored."""
    expert_ids: tuple[str, ...]
    routed: Mapping[str, Mapping[str, int]]
    """Collection → expert → queries of it that were routed there."""

    def mean(self, system: str, metric: str = "ndcg") -> float:
        """Over collections, each of the same weight."""
        return float(np.mean([self.of(system, name, metric) for name in self.collections]))

    def of(self, system: str, collection: str, metric: str = "ndcg") -> float:
        return float(getattr(self.systems[system][collection], metric).mean())


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Experts with the scorer that routes to them, and what that was fitted on."""

    base: Encoder
    experts: Mapping[str, Trained]
    """By the name of their domain."""
    multitask: Trained
    table: OutcomeTable
    scorer: PilotsScorer

    def adapters(self) -> dict[str, LinearAdapter]:
        return {name: trained.adapter for name, trained in self.experts.items()}


def train_pool(
    domains: Sequence[Domain],
    base: Encoder,
    split: str,
    recipe: Recipe,
    advance: Advance = lambda _: None,
) -> Pool:
    """An expert for each domain, one for all, and pilots. `split` is whose queries may be seen."""
    if len(domains) < 2:
        raise DatasetError(
            "one collection leaves nothing to route between; give a folder with two or more"
        )
    experts = {}
    for domain in domains:
        experts[domain.name] = train_expert(domain, base.name, recipe)
        advance(f"expert {domain.name}")
    multitask = train_multitask(domains, base.name, recipe)
    advance(MULTITASK)
    adapters = {name: trained.adapter for name, trained in experts.items()}
    table = outcome_table(domains, adapters, base, split)
    scorer = PilotsScorer.fit(table, base, least_share=LEAST_SHARE)
    return Pool(base, experts, multitask, table, scorer)


def outcome_table(
    domains: Sequence[Domain], adapters: Mapping[str, LinearAdapter], base: Encoder, split: str
) -> OutcomeTable:
    """nDCG@10 of each expert on each instance of each domain; the domain is the category."""
    queries, scores = [], []
    for domain in domains:
        instances = domain.instances(split, MOST_INSTANCES)
        vectors = base.encode([instance.query.text for instance in instances])
        found = [
            ExpertIndex(adapter, domain.library).search(vectors, K_NDCG)
            for adapter in adapters.values()
        ]
        queries += [replace(i.query, id=f"{domain.name}/{i.query.id}") for i in instances]
        scores += [
            [ndcg([id_ for id_, _ in hits[row]], instance.relevant, K_NDCG) for hits in found]
            for row, instance in enumerate(instances)
        ]
    return OutcomeTable(tuple(queries), tuple(adapters), np.array(scores))


def measure(
    domains: Sequence[Domain], pool: Pool, split: str, advance: Advance = lambda _: None
) -> Measured:
    """Every system on that split's queries of every domain."""
    systems: dict[str, dict[str, Judged]] = {}
    routed = {}
    for domain in domains:
        asked = domain.collection.split(split)
        judged, experts = _judged(domain, asked, pool)
        for system, one in judged.items():
            systems.setdefault(system, {})[domain.name] = one
        routed[domain.name] = {id_: experts.count(id_) for id_ in pool.experts}
        advance(domain.name)
    names = tuple(domain.name for domain in domains)
    return Measured(names, systems, tuple(pool.experts), routed)


def _judged(domain: Domain, asked: Collection, pool: Pool) -> tuple[dict[str, Judged], list[str]]:
    """Every system on one collection, and where each query was routed."""
    relevant = asked.judgements()
    texts = [query.text for query in asked.queries]
    vectors = pool.base.encode(texts)
    lexical = [ranked(scores) for scores in Bm25(asked.documents).search(texts, K_RECALL)]
    judged = {BM25: Judged.of(lexical, relevant)}
    for name, adapter in (
        (BASE, LinearAdapter.identity(pool.base)),
        (MULTITASK, pool.multitask.adapter),
    ):
        hits = ExpertIndex(adapter, domain.library).search(vectors, K_RECALL)
        judged[name] = Judged.of(_ids(hits), relevant)
    retriever = RouterRetriever(pool.base, pool.adapters(), pool.scorer, domain.library)
    experts = []
    for expert_id in pool.experts:
        found = retriever.search(asked.queries, K_RECALL, expert_id)
        experts.append(Judged.of([one.document_ids for one in found], relevant))
        judged[expert_name(expert_id)] = experts[-1]
    routed = retriever.search(asked.queries, K_RECALL)
    judged[ROUTED] = Judged.of([one.document_ids for one in routed], relevant)
    every = PilotsScorer.fit(pool.table, pool.base).score(asked.queries).argmax(axis=1)
    judged[EVERY_PILOT] = Judged.chosen(experts, every.tolist())
    scores = np.stack([one.ndcg for one in experts])
    best = int(scores.mean(axis=1).argmax())
    judged[DATASET_ORACLE] = experts[best]
    judged[INSTANCE_ORACLE] = Judged.chosen(experts, scores.argmax(axis=0).tolist())
    return judged, [one.expert_id for one in routed]


def expert_name(expert_id: str) -> str:
    return f"expert {expert_id}"


def _ids(hits: Sequence[Sequence[tuple[str, float]]]) -> list[list[str]]:
    return [[id_ for id_, _ in hit] for hit in hits]
