"""RouterRetriever end to end: routing, one index an expert, domains that come and go."""

from __future__ import annotations

import numpy as np
import pytest

from coe.errors import ConfigError, DatasetError, PoolMismatch, UnknownExpert
from coe.outcomes import OutcomeTable
from coe.retrieval.adapter import LinearAdapter
from coe.retrieval.collection import Collection
from coe.retrieval.retriever import Library, RouterRetriever
from coe.routers.pilots import PilotsScorer
from coe.routing import Encoder
from coe.types import Query

ASKED = ("rudder and anchor of the ship", "salt in the dough of a loaf")


def _adapter(base: Encoder, seed: int) -> LinearAdapter:
    rng = np.random.default_rng(seed)
    matrix = np.eye(base.dim) + 0.05 * rng.normal(size=(base.dim, base.dim))
    return LinearAdapter(matrix.astype(np.float32), np.zeros(base.dim, np.float32), base.name)


@pytest.fixture
def table() -> OutcomeTable:
    """Each expert is best at home."""
    asked = [
        ("a mast with a sail", "ships"),
        ("the hull in the tide", "ships"),
        ("yeast and rye flour", "bread"),
        ("the crust of a loaf", "bread"),
    ]
    queries = tuple(Query(text, f"q{i}", about) for i, (text, about) in enumerate(asked))
    scores = np.array([[1.0, 0.2], [0.9, 0.1], [0.0, 0.8], [0.3, 0.7]])
    return OutcomeTable(queries, ("ships", "bread"), scores)


@pytest.fixture
def retriever(
    ships: Collection, bread: Collection, base: Encoder, table: OutcomeTable
) -> RouterRetriever:
    library = Library((*ships.documents, *bread.documents), base)
    adapters = {"ships": _adapter(base, 1), "bread": _adapter(base, 2)}
    return RouterRetriever(base, adapters, PilotsScorer.fit(table, base), library)


def test_queries_go_to_the_expert_of_their_domain(retriever: RouterRetriever) -> None:
    assert retriever.route(ASKED) == ["ships", "bread"]
    ship, loaf = retriever.search(ASKED, 5)
    assert (ship.expert_id, loaf.expert_id) == ("ships", "bread")
    assert all(id_.startswith("ships") for id_ in ship.document_ids)
    assert all(id_.startswith("bread") for id_ in loaf.document_ids)
    assert retriever.route([]) == []
    assert retriever.search([]) == []


def test_search_ranks_by_the_adapted_cosine(retriever: RouterRetriever, base: Encoder) -> None:
    adapter = retriever.adapters["bread"]
    (found,) = retriever.search(ASKED[:1], 6, "bread")
    cosines = adapter(base.encode(ASKED[:1]))[0] @ adapter(retriever.library.vectors).T
    best = sorted(zip(cosines, retriever.library.ids, strict=True), reverse=True)[:6]
    assert found.similarities == pytest.approx([cosine for cosine, _ in best], abs=1e-5)
    assert found.document_ids == tuple(id_ for _, id_ in best)


def test_equal_documents_come_in_descending_order_of_their_ids(
    bread: Collection, base: Encoder, table: OutcomeTable
) -> None:
    one = bread.documents[0]
    same = [type(one)(id_, one.text, one.title) for id_ in ("b", "c", "a")]
    adapters = {name: _adapter(base, 1) for name in ("ships", "bread")}
    scorer = PilotsScorer.fit(table, base)
    (found,) = RouterRetriever(base, adapters, scorer, Library(same, base)).search(["salt"], 3)
    assert found.document_ids == ("c", "b", "a")


def test_each_expert_has_an_index_of_its_own(retriever: RouterRetriever) -> None:
    assert retriever.index("ships") is retriever.index("ships")
    ours, theirs = (retriever.search(ASKED[:1], 40, id_)[0] for id_ in ("ships", "bread"))
    assert ours.similarities != theirs.similarities


def test_removing_a_domain_touches_no_other(retriever: RouterRetriever) -> None:
    index, before = retriever.index("ships"), retriever.search(ASKED[:1], 7)
    left = retriever.without_domain("bread")
    assert left.expert_ids == ("ships",)
    assert left.index("ships") is index
    assert left.adapters["ships"] is retriever.adapters["ships"]
    assert left.route(ASKED) == ["ships", "ships"]
    assert left.search(ASKED[:1], 7) == before
    assert retriever.expert_ids == ("ships", "bread")


def test_adding_a_domain_back_undoes_removing_it(
    retriever: RouterRetriever, table: OutcomeTable
) -> None:
    before = retriever.search(ASKED, 9)
    left = retriever.without_domain("bread")
    index = left.index("ships")
    whole = left.with_domain("bread", retriever.adapters["bread"], table)
    assert whole.index("ships") is index
    assert whole.search(ASKED, 9) == before


def test_domain_is_not_added_twice(retriever: RouterRetriever, table: OutcomeTable) -> None:
    with pytest.raises(ConfigError, match="'ships' is an expert already"):
        retriever.with_domain("ships", retriever.adapters["ships"], table)


def test_unknown_expert_is_named_with_the_nearest(retriever: RouterRetriever) -> None:
    with pytest.raises(UnknownExpert, match="did you mean 'ships'"):
        retriever.search(ASKED, 3, "ship")


def test_parts_that_do_not_belong_together_are_refused(
    retriever: RouterRetriever, base: Encoder
) -> None:
    parts = retriever.scorer, retriever.library
    with pytest.raises(PoolMismatch, match="an adapter for each expert"):
        RouterRetriever(base, {"ships": _adapter(base, 1)}, *parts)
    stranger = LinearAdapter(np.eye(base.dim), np.zeros(base.dim), "another")
    with pytest.raises(PoolMismatch, match="another"):
        RouterRetriever(base, {"ships": stranger, "bread": stranger}, *parts)


def test_library_wants_documents_and_their_own_vectors(base: Encoder, ships: Collection) -> None:
    with pytest.raises(DatasetError, match="no documents to search"):
        Library([], base)
    with pytest.raises(DatasetError, match="encode them with 'minilm-static"):
        Library(ships.documents, base, np.zeros((3, base.dim)))
