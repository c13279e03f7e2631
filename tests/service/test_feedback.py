"""Feedback over HTTP: what is taken, what is refused, and what it leaves behind."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from coe.errors import UpstreamError
from coe.feedback import Rating, read_feedback
from coe.feedback_log import MOST_REPLACED, FeedbackLog
from coe.service.app import create_app

CHAT, FEEDBACK = "/v1/chat/completions", "/v1/feedback"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "feedback.jsonl"


@pytest.fixture
async def rated(compose: Any, file: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Speaks to a gateway that keeps feedback."""
    log = FeedbackLog(file)
    async with _client(create_app(compose(), feedback=log)) as client:
        yield client
    log.close()


def _client(app: Starlette) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://coe")


def _ask(text: str, model: str = "coe", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


async def _asked(client: httpx.AsyncClient, text: str, **fields: Any) -> str:
    """The id of the decision on that query."""
    response = await client.post(CHAT, json=_ask(text, **fields))
    assert response.status_code == 200
    return str(response.headers["x-coe-decision-id"])


def _error(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.parametrize(
    ("said", "score"),
    [({"thumb": "up"}, 1.0), ({"thumb": "down"}, 0.0), ({"score": 0.25}, 0.25), ({"score": 1}, 1)],
)
async def test_feedback_is_joined_with_its_query(
    rated: httpx.AsyncClient, file: Path, said: dict[str, Any], score: float
) -> None:
    decision_id = await _asked(rated, "sums: 1 + 2")
    response = await rated.post(FEEDBACK, json={"decision_id": decision_id, **said})
    assert response.status_code == 200
    assert response.json() == {
        "object": "feedback",
        "decision_id": decision_id,
        "expert": "sums",
        "score": score,
        "replaced": False,
    }
    assert read_feedback(file) == ((Rating(decision_id, "sums: 1 + 2", "sums", score),), 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_completion_id_does_for_the_decision_id(
    rated: httpx.AsyncClient, file: Path, stream: bool
) -> None:
    response = await rated.post(CHAT, json=_ask("sums: 1 + 2", stream=stream))
    completion_id = response.text.partition('"id":"')[2].partition('"')[0]
    assert completion_id.startswith("chatcmpl-")
    said = await rated.post(FEEDBACK, json={"decision_id": completion_id, "thumb": "up"})
    assert said.status_code == 200
    assert said.json()["decision_id"] == response.headers["x-coe-decision-id"]


async def test_second_feedback_replaces_the_first_and_says_so(
    rated: httpx.AsyncClient, file: Path
) -> None:
    decision_id = await _asked(rated, "sums")
    await rated.post(FEEDBACK, json={"decision_id": decision_id, "thumb": "up"})
    again = await rated.post(FEEDBACK, json={"decision_id": decision_id, "thumb": "down"})
    assert again.json()["replaced"] is True
    assert [rating.score for rating in read_feedback(file)[0]] == [0.0]


async def test_feedback_that_changes_its_mind_too_often_is_refused(
    rated: httpx.AsyncClient, file: Path
) -> None:
    decision_id = await _asked(rated, "sums")
    for i in range(MOST_REPLACED + 1):
        said = {"decision_id": decision_id, "score": i % 2}
        assert (await rated.post(FEEDBACK, json=said)).status_code == 200
    said = {"decision_id": decision_id, "score": 0.5}
    response = await rated.post(FEEDBACK, json=said)
    assert response.status_code == 429
    assert "stays as it is" in _error(response)["message"]
    assert len(file.read_bytes().splitlines()) == 1 + MOST_REPLACED + 1


async def test_pinned_answers_can_be_rated(rated: httpx.AsyncClient, file: Path) -> None:
    decision_id = await _asked(rated, "sums: 1 + 2", model="lands/capitals")
    response = await rated.post(FEEDBACK, json={"decision_id": decision_id, "thumb": "down"})
    assert response.json()["expert"] == "lands/capitals"


async def test_feedback_is_about_the_last_user_turn(rated: httpx.AsyncClient, file: Path) -> None:
    turns = [("user", "sums first"), ("assistant", "yes"), ("user", "sums second")]
    messages = [{"role": role, "content": content} for role, content in turns]
    response = await rated.post(CHAT, json={"model": "coe", "messages": messages})
    decision_id = response.headers["x-coe-decision-id"]
    await rated.post(FEEDBACK, json={"decision_id": decision_id, "thumb": "up"})
    assert read_feedback(file)[0][0].text == "sums second"


async def test_feedback_is_about_who_answered_and_not_who_was_to(
    compose: Any, fakes: Any, whole: Any, file: Path
) -> None:
    engines = {
        "a": fakes.line("a", [UpstreamError("a", "no")]),
        "b": fakes.line("b", whole),
        "c": fakes.line("c", whole),
    }
    log = FeedbackLog(file)
    async with _client(create_app(compose(engines, k=3), feedback=log)) as client:
        decision_id = await _asked(client, "a before the others")
        which = await client.post(FEEDBACK, json={"decision_id": decision_id, "thumb": "up"})
        failed = await client.post(
            FEEDBACK, json={"decision_id": decision_id, "thumb": "up", "expert": "a"}
        )
        named = await client.post(
            FEEDBACK, json={"decision_id": decision_id, "thumb": "up", "expert": "c"}
        )
    log.close()
    for refused in (which, failed):
        assert refused.status_code == 400
        assert _error(refused)["param"] == "expert"
        assert "b, c answered" in _error(refused)["message"]
    assert named.json()["expert"] == "c"
    assert [rating.expert_id for rating in read_feedback(file)[0]] == ["c"]


async def test_unknown_decision_is_not_found(rated: httpx.AsyncClient, file: Path) -> None:
    response = await rated.post(FEEDBACK, json={"decision_id": "0" * 32, "thumb": "up"})
    assert response.status_code == 404
    assert _error(response)["code"] == "decision_not_found"
    assert _error(response)["param"] == "decision_id"
    assert file.read_bytes() == b""


@pytest.mark.parametrize(
    ("said", "param", "code"),
    [
        ({"thumb": "up"}, "decision_id", "missing_parameter"),
        ({"decision_id": "", "thumb": "up"}, "decision_id", "invalid_value"),
        ({"decision_id": "d" * 300, "thumb": "up"}, "decision_id", "invalid_value"),
        ({"decision_id": 7, "thumb": "up"}, "decision_id", "invalid_type"),
        ({"decision_id": "d"}, "score", "invalid_value"),
        ({"decision_id": "d", "thumb": "up", "score": 1}, "score", "invalid_value"),
        ({"decision_id": "d", "thumb": "sideways"}, "thumb", "invalid_value"),
        ({"decision_id": "d", "score": 1.01}, "score", "invalid_value"),
        ({"decision_id": "d", "score": -0.01}, "score", "invalid_value"),
        ({"decision_id": "d", "score": "1"}, "score", "invalid_type"),
        ({"decision_id": "d", "score": True}, "score", "invalid_type"),
        ({"decision_id": "d", "thumb": "up", "expert": ""}, "expert", "invalid_value"),
        ({"decision_id": "d", "thumb": "up", "comment": "nice"}, "comment", "invalid_value"),
        ([], None, "invalid_json"),
    ],
)
async def test_wrong_feedback_is_explained(
    rated: httpx.AsyncClient, said: Any, param: str | None, code: str
) -> None:
    response = await rated.post(FEEDBACK, json=said)
    assert response.status_code == 400
    assert (_error(response)["param"], _error(response)["code"]) == (param, code)


async def test_unread_field_names_those_that_are_taken(rated: httpx.AsyncClient) -> None:
    said = {"decision_id": "d", "thumb": "up", "comment": "nice"}
    message = _error(await rated.post(FEEDBACK, json=said))["message"]
    assert message == "comment is not taken, only decision_id, thumb, score, expert"


async def test_feedback_refuses_what_a_web_page_may_send_unasked(rated: httpx.AsyncClient) -> None:
    decision_id = await _asked(rated, "sums")
    body = f'{{"decision_id": "{decision_id}", "thumb": "up"}}'
    response = await rated.post(FEEDBACK, content=body, headers={"content-type": "text/plain"})
    assert response.status_code == 415
    assert _error(response)["code"] == "unsupported_media_type"


async def test_feedback_takes_no_more_than_a_little(rated: httpx.AsyncClient) -> None:
    decision_id = await _asked(rated, "sums")
    said = {"decision_id": decision_id, "thumb": "up", "expert": "x" * 5000}
    response = await rated.post(FEEDBACK, json=said)
    assert response.status_code == 413
    assert "4096 bytes" in _error(response)["message"]


async def test_feedback_takes_nothing_but_post(rated: httpx.AsyncClient) -> None:
    assert (await rated.get(FEEDBACK)).status_code == 405


async def test_feedback_that_is_off_says_how_to_turn_it_on(client: httpx.AsyncClient) -> None:
    response = await client.post(FEEDBACK, json={"decision_id": "d", "thumb": "up"})
    assert response.status_code == 404
    assert _error(response)["code"] == "feedback_off"
    assert "experts.yaml" in _error(response)["message"]


async def test_full_file_is_told_and_logged(
    compose: Any, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = FeedbackLog(file, max_bytes=10)
    async with _client(create_app(compose(), feedback=log)) as client:
        decision_id = await _asked(client, "sums")
        with caplog.at_level(logging.WARNING):
            response = await client.post(FEEDBACK, json={"decision_id": decision_id, "thumb": "up"})
    log.close()
    assert response.status_code == 507
    assert _error(response)["code"] == "feedback_full"
    assert "--from-feedback" in caplog.text


async def test_answers_go_on_where_decisions_cannot_be_remembered(
    compose: Any, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = FeedbackLog(file)
    log.close()
    async with _client(create_app(compose(), feedback=log)) as client:
        with caplog.at_level(logging.WARNING):
            decision_id = await _asked(client, "sums")
        response = await client.post(FEEDBACK, json={"decision_id": decision_id, "thumb": "up"})
    assert "cannot be remembered" in caplog.text
    assert response.status_code == 404


def test_shutdown_closes_the_log_and_a_new_gateway_takes_it_up(compose: Any, file: Path) -> None:
    with TestClient(create_app(compose(), feedback=FeedbackLog(file))) as client:
        response = client.post(CHAT, json=_ask("sums"))
    said = {"decision_id": response.headers["x-coe-decision-id"], "thumb": "up"}
    # Would raise if the first gateway still held the file.
    with TestClient(create_app(compose(), feedback=FeedbackLog(file))) as client:
        assert client.post(FEEDBACK, json=said).json()["replaced"] is False


def test_feedback_is_in_the_file_when_it_is_acknowledged(
    compose: Any, serve: Any, file: Path, tmp_path: Path
) -> None:
    with serve(create_app(compose(), feedback=FeedbackLog(file))) as live:
        with httpx.Client(base_url=live.url, trust_env=False) as client:
            response = client.post(CHAT, json=_ask("sums"))
            said = {"decision_id": response.headers["x-coe-decision-id"], "thumb": "up"}
            assert client.post(FEEDBACK, json=said).status_code == 200
        # Before any shutdown.
        content = file.read_bytes()
    (tmp_path / "found").write_bytes(content)
    assert [rating.text for rating in read_feedback(tmp_path / "found")[0]] == ["sums"]
