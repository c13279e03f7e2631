"""Every system on small collections: what is compared with what, and what nobody may see.

Documents of one thing are alike and differ in their grades, so that no two experts agree.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from coe.encoders import default_encoder
from coe.errors import DatasetError
from coe.eval.beir_report import PAPER, beir_json, caption, gain_over, systems_table
from coe.eval.beir_systems import (
    BASE,
    BM25,
    DATASET_ORACLE,
    EVERY_PILOT,
    INSTANCE_ORACLE,
    MULTITASK,
    ROUTED,
    Judged,
    Measured,
    Pool,
    expert_name,
    measure,
    outcome_table,
    train_pool,
)
from coe.retrieval.adapter import LinearAdapter
from coe.retrieval.collection import Collection, Document
from coe.retrieval.domains import Domain
from coe.retrieval.training import Recipe
from coe.types import Query

pytest.importorskip("bm25s")

THINGS = {
    "ships": (
        "keel",
        "mast",
        "rudder",
        "anchor",
        "hull",
        "sail",
        "deck",
        "harbour",
        "tide",
        "crew",
    ),
    "bread": ("flour", "yeast", "oven", "crust", "dough", "salt", "loaf", "rye", "wheat", "baker"),
}
RECIPE = Recipe(learning_rate=0.03, max_epochs=2, batch_rows=32)


def _collection(name: str) -> Collection:
    things = THINGS[name]
    documents = tuple(
        Document(
            f"{name}-{i}",
            f"The {things[i % 10]} stands by the {things[i // 3 % 10]}. Old books praise the "
            f"{things[i % 10]}. Every {things[(i // 10 + i + 1) % 10]} has its price {i}.",
            f"On the {things[i % 10]}",
        )
        for i in range(40)
    )
    queries = tuple(Query(f"a good {thing}", f"q{i}", name) for i, thing in enumerate(things[:6]))
    qrels = {
        query.id: {
            d.id: 1 + 7 * j % 5 for j, d in enumerate(documents) if d.title.endswith(things[i])
        }
        for i, query in enumerate(queries)
    }
    return Collection(name, documents, queries, ("train",) * 3 + ("test",) * 3, qrels)


@pytest.fixture(scope="module")
def domains() -> list[Domain]:
    return [Domain.of(_collection(name), default_encoder()) for name in THINGS]


@pytest.fixture(scope="module")
def pool(domains: list[Domain]) -> Pool:
    return train_pool(domains, default_encoder(), "train", RECIPE)


@pytest.fixture(scope="module")
def measured(domains: list[Domain], pool: Pool) -> Measured:
    return measure(domains, pool, "test")


def test_every_system_is_measured_on_every_collection(measured: Measured) -> None:
    assert set(measured.systems) == {
        BM25,
        BASE,
        MULTITASK,
        expert_name("ships"),
        expert_name("bread"),
        ROUTED,
        EVERY_PILOT,
        DATASET_ORACLE,
        INSTANCE_ORACLE,
    }
    for by_collection in measured.systems.values():
        assert list(by_collection) == ["ships", "bread"]
        for judged in by_collection.values():
            assert judged.ndcg.shape == judged.recall.shape == (3,)
            assert ((judged.ndcg >= 0) & (judged.ndcg <= 1)).all()


def test_oracles_bound_what_experts_and_router_reach(measured: Measured) -> None:
    for name in measured.collections:
        experts = [measured.of(expert_name(id_), name) for id_ in measured.expert_ids]
        assert measured.of(DATASET_ORACLE, name) == max(experts)
        assert measured.of(INSTANCE_ORACLE, name) >= measured.of(ROUTED, name)
        assert measured.of(INSTANCE_ORACLE, name) >= max(experts)


def test_routed_queries_have_the_score_of_their_expert(
    measured: Measured, domains: list[Domain], pool: Pool
) -> None:
    for domain in domains:
        asked = domain.collection.split("test").queries
        columns = pool.scorer.score(asked).argmax(axis=1)
        by_expert = np.stack(
            [measured.systems[expert_name(id_)][domain.name].ndcg for id_ in pool.experts]
        )
        routed = measured.systems[ROUTED][domain.name].ndcg
        assert np.array_equal(routed, by_expert[columns, np.arange(3)])
        assert sum(measured.routed[domain.name].values()) == 3


def test_bm25_finds_the_documents_of_the_word(measured: Measured) -> None:
    assert measured.mean(BM25) > 0.5
    assert measured.mean(BM25, "recall") == pytest.approx(1.0)


def test_nothing_is_fitted_on_queries_of_the_judged_split(pool: Pool) -> None:
    assert {query.text for query in pool.table.queries} == {
        f"a good {thing}" for things in THINGS.values() for thing in things[:3]
    }


def test_changed_test_queries_change_no_expert_and_no_router(pool: Pool) -> None:
    changed = []
    for name in THINGS:
        collection = _collection(name)
        queries = tuple(
            replace(query, text=f"quite another {i}") if split == "test" else query
            for i, (query, split) in enumerate(
                zip(collection.queries, collection.splits, strict=True)
            )
        )
        changed.append(Domain.of(replace(collection, queries=queries), default_encoder()))
    again = train_pool(changed, default_encoder(), "train", RECIPE)
    for name, trained in pool.experts.items():
        assert again.experts[name].adapter.digest() == trained.adapter.digest()
    assert again.multitask.adapter.digest() == pool.multitask.adapter.digest()
    assert again.table.digest() == pool.table.digest()


def test_domain_without_training_queries_is_compared_on_pairs_held_out() -> None:
    collection = _collection("ships")
    domain = Domain.of(replace(collection, splits=("test",) * 6), default_encoder())
    held_out = {pair.anchor for pair in domain.pairs if pair.is_held_out}
    adapters = {"one": LinearAdapter.identity(default_encoder())}
    table = outcome_table([domain], adapters, default_encoder(), "train")
    assert table.n_queries > 2
    assert {query.text for query in table.queries} <= held_out
    assert set(table.categories) == {"ships"}


def test_one_collection_is_nothing_to_route_between(domains: list[Domain]) -> None:
    with pytest.raises(DatasetError, match="two or more"):
        train_pool(domains[:1], default_encoder(), "train", RECIPE)


def test_chosen_takes_each_query_from_its_part() -> None:
    parts = [
        Judged(np.array([0.1, 0.2]), np.array([0.3, 0.4])),
        Judged(np.array([0.5, 0.6]), np.array([0.7, 0.8])),
    ]
    chosen = Judged.chosen(parts, [1, 0])
    assert chosen.ndcg.tolist() == [0.5, 0.2]
    assert chosen.recall.tolist() == [0.7, 0.4]


def test_gain_is_the_mean_over_collections_and_within_its_interval(measured: Measured) -> None:
    gain = gain_over(measured, BASE)
    assert gain["mean"] == pytest.approx(measured.mean(ROUTED) - measured.mean(BASE))
    assert gain["low"] <= gain["mean"] <= gain["high"]
    assert gain == gain_over(measured, BASE)
    assert caption(measured).count("in the paper") == 2


def test_table_has_a_row_a_system_and_the_papers_column(measured: Measured) -> None:
    table = systems_table(measured, "ndcg")
    assert table.row_count == len(measured.systems)
    assert [str(column.header) for column in table.columns] == [
        "system",
        "ships",
        "bread",
        "average",
        "paper",
    ]
    paper = dict(zip(table.columns[0]._cells, table.columns[-1]._cells, strict=True))
    assert (paper[BASE], paper[MULTITASK], paper[ROUTED]) == ("47.5", "46.4", "49.6")
    assert len(systems_table(measured, "recall").columns) == 4


def test_json_has_every_number_and_the_recipe(measured: Measured, pool: Pool) -> None:
    report = beir_json(measured, pool, RECIPE, {"benchmark": "beir"})
    assert report["benchmark"] == "beir"
    assert report["recipe"]["max_epochs"] == 2
    routed = report["systems"][ROUTED]
    assert routed["paper_ndcg@10"] == PAPER[ROUTED] / 100
    assert routed["average"]["ndcg@10"] == measured.mean(ROUTED)
    assert routed["ships"]["ndcg@10"]["n"] == 3
    assert report["experts"]["ships"]["domains"] == ["ships"]
    assert report["experts"][MULTITASK]["domains"] == ["ships", "bread"]
