"""Two small domains that the shipped encoder tells apart."""

from __future__ import annotations

import pytest

from coe.encoders import default_encoder
from coe.retrieval.collection import Collection, Document
from coe.routing import Encoder
from coe.types import Query

_THINGS = {
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


def collection_of(name: str, n_documents: int = 40) -> Collection:
    """Documents about two things each; four queries ask for one of them, two to train on."""
    things = _THINGS[name]
    documents = []
    for i in range(n_documents):
        first, second = things[i % 10], things[(i // 10 + i + 1) % 10]
        text = (
            f"The {first} stands beside the {second} on day {i}. Old books praise the {first}. "
            f"Every {second} has its price. Nobody sells a {first} without a word."
        )
        documents.append(Document(f"{name}-{i}", text, f"On the {first} and the {second} {i}"))
    queries = tuple(Query(f"a good {thing}", f"q{i}", name) for i, thing in enumerate(things[:4]))
    qrels = {
        query.id: {d.id: 1 for d in documents if f"the {things[i]} and" in d.title}
        for i, query in enumerate(queries)
    }
    return Collection(name, tuple(documents), queries, ("train", "train", "test", "test"), qrels)


@pytest.fixture(scope="session")
def base() -> Encoder:
    return default_encoder()


@pytest.fixture
def ships() -> Collection:
    return collection_of("ships")


@pytest.fixture
def bread() -> Collection:
    return collection_of("bread")
