"""`/v1/embeddings` in a pool of embedding experts beside others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2 as httpx
import openai
import pytest

from coe.composition import Composition
from coe.encoders import default_encoder
from coe.engines.base import Engine
from coe.engines.embedder import EmbedderEngine
from coe.engines.scripted import ScriptedEngine
from coe.experts import EmbedderSpec, Expert, ExpertPool, ScriptedSpec
from coe.routers.policies import TopK
from coe.routing import Router
from coe.service.app import create_app

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"


class _Server(ScriptedEngine):
    """A server that speaks the protocol, and would take embeddings, too."""

    raw_routes = frozenset({"embeddings", "chat/completions"})


@pytest.fixture
def composition(fakes: Any) -> Composition:
    writer = Expert("writer", ScriptedSpec(default="written"))
    embedders = [Expert(id_, EmbedderSpec()) for id_ in ("ships", "bread")]
    pool = ExpertPool((writer, *embedders))
    engines: dict[str, Engine] = {"writer": _Server(writer)}
    for expert in embedders:
        engines[expert.id] = EmbedderEngine(expert, default_encoder)
    return Composition(Router(fakes.scorer(pool.ids), TopK(1), pool), engines)


@pytest.fixture
async def client(composition: Composition) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(composition))
    async with httpx.AsyncClient(transport=transport, base_url="http://coe") as client:
        yield client
    await composition.stop()


@pytest.mark.parametrize("expert", ["ships", "bread"])
async def test_query_is_embedded_by_the_expert_it_is_routed_to(
    client: httpx.AsyncClient, expert: str
) -> None:
    response = await client.post(EMBEDDINGS, json={"model": "coe", "input": f"about {expert}"})
    assert response.status_code == 200
    assert response.headers["x-coe-expert"] == expert
    answer = response.json()
    assert answer["model"] == expert
    assert len(answer["data"][0]["embedding"]) == default_encoder().dim


async def test_all_texts_of_a_request_go_where_the_first_is_routed(
    client: httpx.AsyncClient,
) -> None:
    body = {"model": "coe", "input": ["about bread", "about ships"]}
    answer = (await client.post(EMBEDDINGS, json=body)).json()
    assert answer["model"] == "bread"
    assert len(answer["data"]) == 2


async def test_other_servers_are_not_routed_to_for_embeddings(client: httpx.AsyncClient) -> None:
    response = await client.post(EMBEDDINGS, json={"model": "coe", "input": "about writer"})
    assert response.headers["x-coe-expert"] in ("ships", "bread")


async def test_chat_is_never_routed_to_an_embedding_expert(client: httpx.AsyncClient) -> None:
    for about in ("ships", "bread", "writer"):
        body = {"model": "coe", "messages": [{"role": "user", "content": f"about {about}"}]}
        response = await client.post(CHAT, json=body)
        assert response.headers["x-coe-expert"] == "writer"
        assert response.json()["choices"][0]["message"]["content"] == "written"


async def test_embedding_expert_asked_to_write_says_where_it_can_be_asked(
    client: httpx.AsyncClient,
) -> None:
    body = {"model": "ships", "messages": [{"role": "user", "content": "hello"}]}
    response = await client.post(CHAT, json=body)
    assert response.status_code == 400
    assert "/v1/embeddings" in response.json()["error"]["message"]


async def test_input_it_cannot_read_is_a_client_error(client: httpx.AsyncClient) -> None:
    response = await client.post(EMBEDDINGS, json={"model": "ships", "input": [[1, 2]]})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "input"


async def test_openais_client_reads_floats_and_base64(client: httpx.AsyncClient) -> None:
    ai = openai.AsyncOpenAI(base_url="http://coe/v1", api_key="none", http_client=client)
    told = await ai.embeddings.create(model="coe", input="about ships", encoding_format="float")
    packed = await ai.embeddings.create(model="coe", input="about ships")
    assert told.model == packed.model == "ships"
    assert packed.data[0].embedding == pytest.approx(told.data[0].embedding, abs=1e-6)
    assert told.usage.prompt_tokens == 2
