"""The routes of files and batches. What belongs to another tenant is not there."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.responses import FileResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from coe.errors import DeadlineExceeded
from coe.service.batches.jobs import BatchJobs
from coe.service.batches.objects import batch_object, read_batch
from coe.service.errors import BodyTooSlow, InvalidRequest
from coe.service.files.objects import file_object, page_object, read_page
from coe.service.files.upload import PURPOSE, Upload
from coe.service.gateway import Gateway
from coe.service.plain import Plain
from coe.service.reply import read_body, request_header, require_json, send_json
from coe.service.tenant import key_of, tenant_of
from coe.service.time_limit import TimeLimit
from coe.store import StoredFile, UnknownFile

PATH = "/v1/files"
FORM_BYTES = 64 * 1024
"""What a form takes besides its file."""
_BATCH_BYTES = 64 * 1024
_BATCHES_OF_A_PAGE = (20, 100)
_FILES_OF_A_PAGE = (10_000, 10_000)


def file_routes(gateway: Gateway, jobs: BatchJobs) -> list[Route]:
    """Of files and batches. A path without an id comes before those with one."""
    files, batches = FilesDoor(gateway, jobs), BatchesDoor(gateway, jobs)
    one, batch = f"{PATH}/{{file_id}}", "/v1/batches/{batch_id}"
    return [
        Route(PATH, Plain(files.create), methods=["POST"]),
        Route(PATH, Plain(files.list), methods=["GET"]),
        Route(one, Plain(files.show), methods=["GET"]),
        Route(one, Plain(files.delete), methods=["DELETE"]),
        Route(f"{one}/content", Plain(files.content), methods=["GET"]),
        Route("/v1/batches", Plain(batches.create), methods=["POST"]),
        Route("/v1/batches", Plain(batches.list), methods=["GET"]),
        Route(batch, Plain(batches.show), methods=["GET"]),
        Route(f"{batch}/cancel", Plain(batches.cancel), methods=["POST"]),
    ]


class FilesDoor:
    """Files that batches are made of, and that they make."""

    def __init__(self, gateway: Gateway, jobs: BatchJobs) -> None:
        self._gateway = gateway
        self._files = jobs.store.files
        self._settings = jobs.settings

    async def create(self, scope: Scope, receive: Receive, send: Send) -> None:
        _refuse_pages(scope)
        tenant, settings = tenant_of(scope), self._settings
        upload = Upload(scope, receive)
        most = min(settings.max_file_bytes, await self._room(tenant))
        timeout_s = self._gateway.settings.request_timeout_s
        try:
            async with TimeLimit.from_now(timeout_s)():
                name = await upload.begin()
                file = await self._files.create(
                    tenant,
                    name,
                    PURPOSE,
                    upload.content(),
                    max_bytes=most,
                    lifetime_s=upload.lifetime_s,
                )
        except DeadlineExceeded:
            raise BodyTooSlow(timeout_s) from None
        await send_json(send, file_object(file))

    async def list(self, scope: Scope, receive: Receive, send: Send) -> None:
        page = read_page(scope, ("limit", "after", "order", "purpose"), *_FILES_OF_A_PAGE)
        files = [
            file
            for file in await self._files.all(tenant_of(scope))
            if page.purpose in (None, file.purpose)
        ]
        if page.order == "asc":
            files.reverse()
        if page.after is not None:
            files = files[_place_of(page.after, files) + 1 :]
        shown = [file_object(file) for file in files[: page.limit]]
        await send_json(send, page_object(shown, len(files) > page.limit))

    async def show(self, scope: Scope, receive: Receive, send: Send) -> None:
        file = await self._files.get(tenant_of(scope), _id(scope, "file_id"))
        await send_json(send, file_object(file))

    async def content(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = await self._files.path(tenant_of(scope), _id(scope, "file_id"))
        # As no kind that a browser would show, whatever is in it.
        headers = {"x-content-type-options": "nosniff", "cache-control": "no-store"}
        response = FileResponse(path, media_type="application/octet-stream", headers=headers)
        await response(scope, receive, send)

    async def delete(self, scope: Scope, receive: Receive, send: Send) -> None:
        file_id = _id(scope, "file_id")
        await self._files.delete(tenant_of(scope), file_id)
        await send_json(send, {"id": file_id, "object": "file", "deleted": True})

    async def _room(self, tenant: str) -> int:
        """Bytes that the tenant may still keep. Raises `InvalidRequest` if it is to keep no more.

        Uploads that arrive at the same time do not see each other.
        """
        settings, kept = self._settings, await self._files.all(tenant)
        room = settings.max_files_bytes - sum(file.n_bytes for file in kept)
        if len(kept) >= settings.max_files or room <= 0:
            raise InvalidRequest(
                f"at most {settings.max_files} files and {settings.max_files_bytes} bytes are "
                "kept; delete what you have fetched",
                param="file",
                code="storage_full",
            )
        return room


class BatchesDoor:
    """Batches of a tenant."""

    def __init__(self, gateway: Gateway, jobs: BatchJobs) -> None:
        self._gateway = gateway
        self._jobs = jobs
        self._batches = jobs.store.batches

    async def create(self, scope: Scope, receive: Receive, send: Send) -> None:
        require_json(scope)
        timeout_s = self._gateway.settings.request_timeout_s
        try:
            async with TimeLimit.from_now(timeout_s)():
                body = await read_body(receive, _BATCH_BYTES)
        except DeadlineExceeded:
            raise BodyTooSlow(timeout_s) from None
        call = read_batch(body)
        batch = await self._jobs.submit(tenant_of(scope), key_of(scope), call)
        await send_json(send, batch_object(batch))

    async def list(self, scope: Scope, receive: Receive, send: Send) -> None:
        page = read_page(scope, ("limit", "after"), *_BATCHES_OF_A_PAGE)
        found = await self._batches.all(tenant_of(scope), page.limit + 1, page.after)
        shown = [batch_object(batch) for batch in found[: page.limit]]
        await send_json(send, page_object(shown, len(found) > page.limit))

    async def show(self, scope: Scope, receive: Receive, send: Send) -> None:
        batch = await self._batches.get(tenant_of(scope), _id(scope, "batch_id"))
        await send_json(send, batch_object(batch))

    async def cancel(self, scope: Scope, receive: Receive, send: Send) -> None:
        batch = await self._jobs.cancel(tenant_of(scope), _id(scope, "batch_id"))
        await send_json(send, batch_object(batch))


def _id(scope: Scope, name: str) -> str:
    return str(scope["path_params"][name])


def _place_of(file_id: str, files: list[StoredFile]) -> int:
    for place, file in enumerate(files):
        if file.id == file_id:
            return place
    raise UnknownFile(file_id)


def _refuse_pages(scope: Scope) -> None:
    """A web page may send a form anywhere without asking first, but has to say where it is from."""
    origin = request_header(scope, b"origin")
    if origin is None:
        return
    host = (request_header(scope, b"host") or b"").decode("latin-1")
    if urlsplit(origin.decode("latin-1")).netloc != host:
        told = "pages of other sites may not send files here"
        raise InvalidRequest(told, code="cross_origin")
