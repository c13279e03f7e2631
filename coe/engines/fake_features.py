"""An OpenAI-compatible server that knows the whole protocol and no language, for tests and demos.

It does what is asked for by the request and nothing of its own: calls the tool that it may call,
fills the schema that it is given, repeats what it was told otherwise. What a real server would
refuse, it refuses. Loopback only and without keys.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web

from coe.engines.sse import encode_event

_DIM = 4
_CREATED = 1_700_000_000


class WrongRequest(Exception):
    """What a server answers with status 400."""


class FakeFeatures:
    """The handlers. What was posted is kept to be looked at, as pairs of a route and a body."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.refusals: list[tuple[int, float]] = []
        """Statuses, with seconds to stay away, that the next requests are answered with."""

    @asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncIterator[str]:
        """Serves until the block ends; gives the base URL, up to and including `/v1`."""
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/{route:.*}", self._answer)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            host, bound = runner.addresses[0][:2]
            yield f"http://{host}:{bound}/v1"
        finally:
            await runner.cleanup()

    async def _models(self, _: web.Request) -> web.Response:
        return _json({"object": "list", "data": [{"id": "features", "object": "model"}]})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        route, body = request.match_info["route"], orjson.loads(await request.read())
        self.asked.append((route, body))
        if self.refusals:
            status, wait_s = self.refusals.pop(0)
            refused = _json(_error("come back later"), status)
            refused.headers["Retry-After"] = f"{wait_s:g}"
            return refused
        answers = {
            "chat/completions": chat_completion,
            "completions": text_completion,
            "embeddings": embeddings,
        }
        if route not in answers:
            return _json(_error("no such route"), 404)
        try:
            answer = answers[route](body)
        except WrongRequest as error:
            return _json(_error(str(error)), 400)
        if not body.get("stream"):
            return _json(answer)
        return await _streamed(request, answer, body)


def chat_completion(body: Mapping[str, Any]) -> dict[str, Any]:
    """Raises `WrongRequest`."""
    messages = _list(body, "messages")
    choices = [_chat_choice(body, messages, index) for index in range(_count(body, "n", 1))]
    return _envelope("chat.completion", body, choices)


def text_completion(body: Mapping[str, Any]) -> dict[str, Any]:
    """Raises `WrongRequest`."""
    prompt = body.get("prompt")
    prompts: list[Any] = prompt if isinstance(prompt, list) else [prompt]
    if not prompts or not all(isinstance(one, str) for one in prompts):
        raise WrongRequest("prompt must be a string or strings")
    choices: list[dict[str, Any]] = []
    for one in prompts:
        for _ in range(_count(body, "n", 1)):
            text, reason = _cut(f"after {one}", body)
            said = one + text if body.get("echo") else text
            choices.append({"index": len(choices), "text": said, "finish_reason": reason})
            choices[-1]["logprobs"] = None
    return _envelope("text_completion", body, choices)


def embeddings(body: Mapping[str, Any]) -> dict[str, Any]:
    """Each text's length, and zeros. Raises `WrongRequest`."""
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise WrongRequest("input must be a string or a list")
    dim = _count(body, "dimensions", _DIM)
    data = []
    for index, text in enumerate(texts):
        vector: Any = [float(len(str(text))), *([0.0] * (dim - 1))]
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{dim}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return {"object": "list", "model": body["model"], "data": data, "usage": usage}


def _chat_choice(
    body: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], index: int
) -> dict[str, Any]:
    call = _call(body, messages)
    if call is not None:
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        return {"index": index, "message": message, "finish_reason": "tool_calls"}
    told = _formatted(body)
    text, reason = (told, "stop") if told else _cut(_repeated(body, messages, index), body)
    choice: dict[str, Any] = {"index": index, "message": {"role": "assistant", "content": text}}
    choice["logprobs"] = _logprobs(text, body) if body.get("logprobs") else None
    return choice | {"finish_reason": reason}


def _call(body: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """A call of the tool that was chosen, or else of the first; never right after its result."""
    tools = _list(body, "tools", 0)
    names = [tool["function"]["name"] for tool in tools]
    choice = body.get("tool_choice", "auto")
    if not tools or choice == "none" or messages[-1]["role"] == "tool":
        return None
    name = choice["function"]["name"] if isinstance(choice, dict) else names[0]
    if name not in names:
        raise WrongRequest(f"tool_choice names {name!r}, which is no tool")
    schema = tools[names.index(name)]["function"].get("parameters", {})
    arguments = orjson.dumps(filled(schema)).decode()
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


def _formatted(body: Mapping[str, Any]) -> str | None:
    wanted = body.get("response_format") or {"type": "text"}
    if wanted.get("type") == "json_schema":
        return orjson.dumps(filled(wanted["json_schema"]["schema"])).decode()
    return '{"ok":true}' if wanted.get("type") == "json_object" else None


def filled(schema: Mapping[str, Any]) -> Any:
    """The plainest value that a JSON schema of ordinary making allows."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        return {name: filled(inner) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [filled(schema.get("items", {"type": "null"}))]
    return {"string": "text", "integer": 42, "number": 4.2, "boolean": True}.get(kind)


def _repeated(body: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], index: int) -> str:
    """What was said last, with what else of the request can be told from an answer."""
    content = messages[-1].get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    words = [str(part["text"]) for part in parts if part.get("type") == "text"]
    n_images = sum(part.get("type") == "image_url" for part in parts)
    words += [f"with {n_images} image"] if n_images else []
    words += [f"seed {body['seed']}"] if body.get("seed") is not None else []
    words += [f"choice {index}"] if index else []
    return " ".join(words)


def _cut(text: str, body: Mapping[str, Any]) -> tuple[str, str]:
    """The text up to a stop or to the most tokens, which are words, and why it ends."""
    stop = body.get("stop") or ()
    for end in (stop,) if isinstance(stop, str) else stop:
        text = text.partition(end)[0]
    most = body.get("max_completion_tokens") or body.get("max_tokens")
    words = list(_words(text))
    if most is not None and len(words) > most:
        return "".join(words[:most]), "length"
    return text, "stop"


def _logprobs(text: str, body: Mapping[str, Any]) -> dict[str, Any]:
    others = [_token(f"other{rank}", -2.0 - rank) for rank in range(body.get("top_logprobs") or 0)]
    tokens = [_token(word, -0.5) | {"top_logprobs": others} for word in _words(text)]
    return {"content": tokens, "refusal": None}


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _words(text: str) -> Iterator[str]:
    for place, word in enumerate(text.split(" ")):
        yield word if place == 0 else f" {word}"


async def _streamed(
    request: web.Request, answer: Mapping[str, Any], body: Mapping[str, Any]
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    kind = answer["object"]
    shared = {**answer, "object": f"{kind}.chunk" if kind.startswith("chat") else kind}
    usage = shared.pop("usage")
    for choice in answer["choices"]:
        for chunk in _chunks(choice):
            event = {**shared, "choices": [{"index": choice["index"], "logprobs": None, **chunk}]}
            await response.write(encode_event(orjson.dumps(event)))
    if (body.get("stream_options") or {}).get("include_usage"):
        await response.write(encode_event(orjson.dumps(shared | {"choices": [], "usage": usage})))
    await response.write(encode_event(b"[DONE]"))
    return response


def _chunks(choice: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A choice word by word, and calls letter group by letter group."""
    end = {"finish_reason": choice["finish_reason"]}
    if "text" in choice:
        yield from ({"text": word, "finish_reason": None} for word in _words(choice["text"]))
        yield {"text": "", **end}
        return
    message = choice["message"]
    yield {"delta": {"role": "assistant", "content": None}, "finish_reason": None}
    logprobs = (choice.get("logprobs") or {}).get("content")
    for place, word in enumerate(_words(message["content"]) if message["content"] else ()):
        told = {"logprobs": {"content": [logprobs[place]]}} if logprobs else {}
        yield {"delta": {"content": word}, "finish_reason": None, **told}
    for call in message.get("tool_calls", ()):
        arguments = call["function"]["arguments"]
        begun = {**call, "index": 0, "function": {**call["function"], "arguments": ""}}
        yield {"delta": {"tool_calls": [begun]}, "finish_reason": None}
        for begin in range(0, len(arguments), 8):
            piece = {"index": 0, "function": {"arguments": arguments[begin : begin + 8]}}
            yield {"delta": {"tool_calls": [piece]}, "finish_reason": None}
    yield {"delta": {}, **end}


def _envelope(
    kind: str, body: Mapping[str, Any], choices: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    n_said = sum(len(orjson.dumps(choice)) // 64 + 1 for choice in choices)
    return {
        "id": "fake-1",
        "object": kind,
        "created": _CREATED,
        "model": body["model"],
        "system_fingerprint": "fp_features",
        "choices": list(choices),
        "usage": {"prompt_tokens": 3, "completion_tokens": n_said, "total_tokens": 3 + n_said},
    }


def _list(body: Mapping[str, Any], name: str, least: int = 1) -> list[Mapping[str, Any]]:
    value = body.get(name) or []
    if not isinstance(value, list) or len(value) < least:
        raise WrongRequest(f"{name} must be a list with at least {least}")
    if not all(isinstance(one, dict) for one in value):
        raise WrongRequest(f"{name} must be objects")
    return value


def _count(body: Mapping[str, Any], name: str, usual: int) -> int:
    value = body.get(name)
    if value is not None and (type(value) is not int or value < 1):
        raise WrongRequest(f"{name} must be a whole number above 0")
    return usual if value is None else value


def _error(message: str) -> dict[str, Any]:
    told = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return {"error": told}


def _json(payload: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(payload), status=status, content_type="application/json")
