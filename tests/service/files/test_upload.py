"""A form with a file in it, however it arrives, and lists of what is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from coe.service.app import create_app
from coe.service.batches.settings import BatchSettings
from coe.service.errors import InvalidRequest
from coe.service.files.upload import Upload
from coe.service.settings import ServiceSettings
from coe.store import Store, StoreSettings, open_store

FILE = ("../../etc/in.jsonl", b"one\r\n--two\n")
SMALL = ServiceSettings(batches=BatchSettings(max_file_bytes=1000, max_files=3))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = open_store(StoreSettings(tmp_path / "store"))
    yield store
    await store.close()


@pytest.fixture
async def client(compose: Any, store: Store) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(compose(), SMALL, store=store))
    async with httpx.AsyncClient(transport=transport, base_url="http://coe") as client:
        yield client


def _form(*parts: tuple[str, bytes], boundary: bytes = b"xyz") -> bytes:
    pieces = [
        b"--%s\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n"
        % (boundary, head.encode(), body)
        for head, body in parts
    ]
    return b"".join(pieces) + b"--%s--\r\n" % boundary


PURPOSE = ('name="purpose"', b"batch")
CONTENT = ('name="file"; filename="x"', b"line")


def _upload(pieces: Sequence[bytes], kind: bytes = b"multipart/form-data; boundary=xyz") -> Upload:
    left = list(pieces)

    async def receive() -> Message:
        body = left.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    return Upload({"type": "http", "headers": [(b"content-type", kind)]}, receive)


async def _read(upload: Upload) -> tuple[str, bytes]:
    name = await upload.begin()
    assert upload.lifetime_s is None
    return name, b"".join([piece async for piece in upload.content()])


@given(st.binary(max_size=60), st.lists(st.integers(0, 300), max_size=6), st.booleans())
async def test_file_is_the_same_however_its_form_is_cut(
    content: bytes, cuts: list[int], is_last: bool
) -> None:
    file = ('name="file"; filename="a b.jsonl"', content)
    body = _form(*((PURPOSE, file) if is_last else (file, PURPOSE)))
    places = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    pieces = [body[a:b] for a, b in pairwise(places)]
    assert await _read(_upload(pieces)) == ("a b.jsonl", content)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (_form(CONTENT), "invalid_value", "purpose"),
        (_form(('name="purpose"', b"fine-tune"), CONTENT), "invalid_value", "purpose"),
        (_form(PURPOSE), "missing_parameter", "file"),
        (_form(PURPOSE, ('name="file"', b"line")), "invalid_value", "file"),
        (_form(PURPOSE, CONTENT, CONTENT), "invalid_value", "file"),
        (_form(PURPOSE, PURPOSE, CONTENT), "unknown_parameter", "purpose"),
        (_form(('name="more"', b"x"), PURPOSE, CONTENT), "unknown_parameter", "more"),
        (_form(('name="purpose"', b"b" * 2000), CONTENT), "invalid_value", "purpose"),
        (_form(PURPOSE, CONTENT)[:-12], "invalid_multipart", None),
        (b"no form", "invalid_multipart", None),
        (
            _form(PURPOSE, CONTENT, ('name="expires_after[seconds]"', b"3600")),
            "invalid_value",
            "expires_after",
        ),
        (
            _form(PURPOSE, ('name="expires_after[seconds]"', b"3600"), CONTENT),
            "invalid_value",
            "expires_after",
        ),
    ],
)
async def test_wrong_form_is_told_what_is_wrong(body: bytes, code: str, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await _read(_upload([body]))
    assert (caught.value.code, caught.value.param) == (code, param)


@pytest.mark.parametrize("kind", [b"", b"application/json", b"multipart/form-data", b"\xff; =\x00"])
def test_what_is_no_form_is_refused(kind: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _upload([b""], kind)
    assert caught.value.code == "unsupported_media_type"


async def _create(client: httpx.AsyncClient, content: bytes, **more: Any) -> httpx.Response:
    files = {"file": (FILE[0], content)}
    return await client.post("/v1/files", files=files, data={"purpose": "batch"}, **more)


async def test_file_is_kept_shown_fetched_and_deleted(
    client: httpx.AsyncClient, store: Store
) -> None:
    file = (await _create(client, FILE[1])).json()
    assert (file["filename"], file["bytes"], file["purpose"]) == (FILE[0], len(FILE[1]), "batch")
    assert [path.name for path in (store.folder / "files").iterdir()] == [file["id"]]
    assert (await client.get(f"/v1/files/{file['id']}")).json() == file
    fetched = await client.get(f"/v1/files/{file['id']}/content")
    assert (fetched.content, fetched.headers["content-type"]) == (
        FILE[1],
        "application/octet-stream",
    )
    deleted = await client.delete(f"/v1/files/{file['id']}")
    assert deleted.json() == {"id": file["id"], "object": "file", "deleted": True}
    for answer in (
        await client.get(f"/v1/files/{file['id']}"),
        await client.get(f"/v1/files/{file['id']}/content"),
        await client.delete(f"/v1/files/{file['id']}"),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "file_not_found")


async def test_nothing_is_left_of_an_upload_that_is_refused(
    client: httpx.AsyncClient, store: Store
) -> None:
    refused = {
        413: await _create(client, b"x" * 1001),
        400: await _create(client, b"x", headers={"origin": "http://elsewhere"}),
    }
    assert {status: answer.status_code for status, answer in refused.items()} == {
        413: 413,
        400: 400,
    }
    assert refused[413].json()["error"]["code"] == "file_too_large"
    assert refused[400].json()["error"]["code"] == "cross_origin"
    assert list((store.folder / "files").iterdir()) == []
    same = await _create(client, b"x", headers={"origin": "http://coe"})
    assert same.status_code == 200


async def test_file_may_be_larger_than_other_bodies(compose: Any, store: Store) -> None:
    settings = ServiceSettings(max_body_bytes=500, batches=BatchSettings(max_file_bytes=10**6))
    transport = httpx.ASGITransport(create_app(compose(), settings, store=store))
    async with httpx.AsyncClient(transport=transport, base_url="http://coe") as client:
        assert (await _create(client, b"x" * 10**5)).status_code == 200
        assert (await _create(client, b"x" * 2 * 10**6)).status_code == 413
        other = await client.post("/v1/batches", json={"input_file_id": "x" * 600})
        assert other.status_code == 413


async def test_room_for_files_is_bounded(client: httpx.AsyncClient) -> None:
    statuses = [(await _create(client, b"x")).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 400]


async def test_lists_come_in_pages(client: httpx.AsyncClient) -> None:
    ids = [(await _create(client, b"x")).json()["id"] for _ in range(3)]
    whole = (await client.get("/v1/files")).json()
    assert (sorted(file["id"] for file in whole["data"]), whole["has_more"]) == (sorted(ids), False)
    order = [file["id"] for file in whole["data"]]
    first = (await client.get("/v1/files?limit=2")).json()
    assert ([file["id"] for file in first["data"]], first["has_more"]) == (order[:2], True)
    rest = (await client.get(f"/v1/files?limit=2&after={first['last_id']}")).json()
    assert ([file["id"] for file in rest["data"]], rest["has_more"]) == (order[2:], False)
    upside = (await client.get("/v1/files?order=asc&limit=1")).json()
    assert [file["id"] for file in upside["data"]] == order[-1:]
    assert (await client.get("/v1/files?purpose=batch_output")).json()["data"] == []
    assert (await client.get("/v1/files?after=file-none")).status_code == 404


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "limit=101", "after=", "lmit=2", "order=a"]
)
async def test_wrong_page_is_refused_by_name(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.get(f"/v1/batches?{query}")
    name = query.partition("=")[0]
    if query == "after=":
        assert answer.status_code == 200
    else:
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"endpoint": "/v1/images"}, "endpoint"),
        ({"endpoint": None}, "endpoint"),
        ({"input_file_id": 7}, "input_file_id"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {str(i): "x" for i in range(17)}}, "metadata"),
        ({"metdata": {}}, "metdata"),
        ({"output_expires_after": {"seconds": 3600}}, "output_expires_after"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 60}},
            "output_expires_after",
        ),
        ({"output_expires_after": "never"}, "output_expires_after"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 3600, "more": 1}},
            "output_expires_after",
        ),
    ],
)
async def test_wrong_batch_is_refused_by_field(
    client: httpx.AsyncClient, changed: dict[str, Any], param: str
) -> None:
    file_id = (await _create(client, b"x")).json()["id"]
    told = {
        "input_file_id": file_id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    answer = await client.post("/v1/batches", json=told | changed)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert (await client.get("/v1/batches")).json()["data"] == []
