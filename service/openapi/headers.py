"""Headers: what a client may say of its request, and what every answer tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coe.service.control import MOST_URGENT
from coe.service.openapi.shapes import ANY_TEXT, Schema, any_of, one_of, ref, text, whole

_SECONDS: Schema = {"type": "string", "pattern": r"^(0\.[0-9]{0,8}[1-9]|[1-9][0-9]{0,8})$"}
_CONTROLS: Mapping[str, tuple[str, Schema]] = {
    "x-coe-priority": ("Urgency; 0 is usual.", whole(-MOST_URGENT, MOST_URGENT)),
    "x-coe-timeout": ("Longest to wait for the whole answer, seconds.", _SECONDS),
    "x-coe-experts": ("Ids of the only experts that may answer, separated by commas.", text(1)),
    "x-coe-policy": (
        "In place of the pool's own policy; empty says nothing.",
        any_of(one_of(""), ref("Policy")),
    ),
    "x-coe-affinity": ("Requests of one name stay with one expert.", ANY_TEXT),
    "x-coe-cache": ("Whether a kept answer will do.", one_of("use", "skip")),
    "x-coe-progress": (
        "Whether comments in a stream tell what happens before its first word.",
        one_of("true", "false"),
    ),
}
_TOLD: Mapping[str, tuple[str, Schema]] = {
    "x-request-id": ("Names the request in the gateway's log.", text(1, 128)),
    "x-coe-expert": ("Who answers, best first, separated by commas.", ANY_TEXT),
    "x-coe-router": ("What decided: scorer/policy.", ANY_TEXT),
    "x-coe-decision-id": ("What `POST /v1/feedback` refers to.", ANY_TEXT),
    "x-coe-scores": ("The best scores, as id=score, separated by commas.", ANY_TEXT),
    "x-coe-cache": ("Whether the answer was known.", one_of("hit", "miss")),
    "retry-after": ("Seconds to wait before asking again.", whole(1, 24 * 3600)),
    "x-ratelimit-limit-requests": ("Of the key, a minute.", whole(0, 2**63 - 1)),
    "x-ratelimit-remaining-requests": ("What is left of it.", whole(0, 2**63 - 1)),
    "x-ratelimit-reset-requests": ("Until all of it is back, as in `1.500s`.", ANY_TEXT),
    "x-ratelimit-limit-tokens": ("Of the key, a minute.", whole(0, 2**63 - 1)),
    "x-ratelimit-remaining-tokens": ("What is left of it.", whole(0, 2**63 - 1)),
    "x-ratelimit-reset-tokens": ("Until all of it is back, as in `1.500s`.", ANY_TEXT),
}
EVERY = ("x-request-id",)
RETRY = ("retry-after",)
DECIDED = tuple(name for name in _TOLD if name.startswith(("x-coe-", "x-ratelimit-")))


def header_components() -> Mapping[str, Schema]:
    """What answers tell, by name."""
    return {name: {"description": why, "schema": schema} for name, (why, schema) in _TOLD.items()}


def parameter_components() -> Mapping[str, Schema]:
    """What requests may say, by name. The same can be said in the body, under `coe`."""
    return {
        name: {"name": name, "in": "header", "description": why, "schema": schema}
        for name, (why, schema) in _CONTROLS.items()
    }


def header_refs(names: Sequence[str]) -> Mapping[str, Schema]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def control_refs() -> list[Schema]:
    return [{"$ref": f"#/components/parameters/{name}"} for name in _CONTROLS]
