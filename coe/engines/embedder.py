"""Embedding experts: an encoder of this process behind `/v1/embeddings`."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Mapping

import numpy as np
import orjson
from numpy.typing import NDArray

from coe.engines.playback import count_pieces
from coe.engines.starting import SelfStarting
from coe.errors import RequestError
from coe.experts import Expert
from coe.routing import Encoder
from coe.types import Delta, GenerationRequest, Message, RawRequest, Usage

ROUTE = "embeddings"
MOST_TEXTS = 2048
"""In one request, as OpenAI has it."""

FloatArray = NDArray[np.floating]


class EmbedderEngine(SelfStarting):
    """Answers raw requests for embeddings, and nothing else. Tokens are words.

    All texts of a request are embedded by this one expert, so that they are of one space; the
    response says whose it is as `model`.
    """

    raw_routes = frozenset({ROUTE})

    def __init__(
        self,
        expert: Expert,
        build: Callable[[], Encoder],
        startup_timeout_s: float | None = None,
    ) -> None:
        """`build` makes the encoder, in a thread, whenever the expert starts."""
        super().__init__(expert)
        self._build = build
        self._startup_timeout_s = startup_timeout_s
        self._encoder: Encoder | None = None

    async def stop(self, timeout_s: float) -> None:
        await super().stop(timeout_s)
        self._encoder = None

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        raw = request.raw
        if raw is None or raw.route != ROUTE:
            raise RequestError(
                f"expert {self.expert_id!r} embeds and does not write; ask it on /v1/embeddings, "
                "or ask another expert",
                param="model",
            )
        texts, is_base64 = _asked(raw)
        await self._lifecycle.ensure(self._startup_timeout_s)
        encoder = self._encoder or self._build()
        rows = await asyncio.to_thread(encoder.encode, texts)
        usage = Usage(count_pieces([Message("user", text) for text in texts]), 0)
        yield Delta(raw=_response(self.expert_id, rows, is_base64, usage))
        yield Delta(finish_reason="stop", usage=usage)

    async def _start(self) -> None:
        """Raises `ConfigError` or `PoolMismatch` where encoder and adapter are not as they say."""
        self._encoder = await asyncio.to_thread(self._build)


def _asked(raw: RawRequest) -> tuple[list[str], bool]:
    """The texts to embed, and whether base64 is wanted. Raises `RequestError`."""
    fields: Mapping[str, object] = raw.fields
    given = fields.get("input")
    texts = given if isinstance(given, list) else [given]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise RequestError(
            "input must be a text, or a list of texts of at least one character each; tokens are "
            "not read",
            param="input",
        )
    if len(texts) > MOST_TEXTS:
        raise RequestError(
            f"input has {len(texts)} texts, at most {MOST_TEXTS} are embedded at once; split it",
            param="input",
        )
    if fields.get("dimensions") is not None:
        raise RequestError(
            "dimensions cannot be chosen, the vectors are of one length; leave it out",
            param="dimensions",
        )
    encoding = fields.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise RequestError(
            f"encoding_format must be float or base64, not {encoding!r}", param="encoding_format"
        )
    return [str(text) for text in texts], encoding == "base64"


def _response(expert_id: str, rows: FloatArray, is_base64: bool, usage: Usage) -> bytes:
    floats = np.ascontiguousarray(rows, dtype="<f4")
    vectors: list[object] = (
        [base64.b64encode(row.tobytes()).decode("ascii") for row in floats]
        if is_base64
        else list(floats)
    )
    data = [
        {"object": "embedding", "index": index, "embedding": vector}
        for index, vector in enumerate(vectors)
    ]
    counts = {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens}
    told = {"object": "list", "data": data, "model": expert_id, "usage": counts}
    return orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY)
