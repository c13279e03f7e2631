"""Files and batches: what their routes take and answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from coe.service.batches.lines import READS
from coe.service.files.objects import ANCHOR, LIFETIMES_S
from coe.service.openapi.shapes import (
    ANY_TEXT,
    COUNT,
    OBJECT,
    Schema,
    answer,
    list_of,
    one_of,
    optional,
    record,
    ref,
    text,
    told,
    whole,
)
from coe.store import BatchState

_METADATA: Schema = {
    "type": "object",
    "maxProperties": 16,
    "propertyNames": {"maxLength": 64},
    "additionalProperties": text(0, 512),
}
_TIMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


def file_schemas() -> Mapping[str, Schema]:
    """The components, by name."""
    return {
        "FileForm": record(
            {
                "purpose": one_of("batch"),
                "file": told({"type": "string", "format": "binary"}, "One request a line."),
                "expires_after[anchor]": told(one_of(ANCHOR), "Before the file."),
                "expires_after[seconds]": told(whole(*LIFETIMES_S), "Before the file."),
            },
            ["purpose", "file"],
            is_closed=True,
        ),
        "File": answer(
            {
                "id": ANY_TEXT,
                "object": one_of("file"),
                "bytes": COUNT,
                "created_at": COUNT,
                "expires_at": optional(COUNT),
                "filename": ANY_TEXT,
                "purpose": ANY_TEXT,
                "status": one_of("processed"),
            }
        ),
        "FileList": _page("File"),
        "DeletedFile": answer({"id": ANY_TEXT, "object": one_of("file"), "deleted": one_of(True)}),
        "BatchRequest": record(
            {
                "input_file_id": text(1),
                "endpoint": one_of(*READS),
                "completion_window": told(
                    {"type": "string", "pattern": "^[1-9][0-9]{0,2}[hd]$"}, "Such as `24h`, `7d`."
                ),
                "metadata": optional(_METADATA),
                "output_expires_after": optional(
                    record(
                        {"anchor": one_of(ANCHOR), "seconds": whole(*LIFETIMES_S)},
                        ["anchor", "seconds"],
                        is_closed=True,
                    )
                ),
            },
            ["input_file_id", "endpoint", "completion_window"],
            is_closed=True,
        ),
        "Batch": _batch(),
        "BatchList": _page("Batch"),
    }


def query_components() -> Mapping[str, Schema]:
    """Parameters of lists, by name."""
    known: Mapping[str, tuple[str, Schema]] = {
        "file_limit": ("limit", whole(1, 10_000)),
        "batch_limit": ("limit", whole(1, 100)),
        "after": ("after", told(ANY_TEXT, "The last id of the page before.")),
        "order": ("order", one_of("asc", "desc")),
        "purpose": ("purpose", ANY_TEXT),
    }
    return {
        key: {"name": name, "in": "query", "schema": schema}
        for key, (name, schema) in known.items()
    }


def _page(name: str) -> Schema:
    ends = dict.fromkeys(("first_id", "last_id"), optional(ANY_TEXT))
    listed = {"object": one_of("list"), "data": list_of(ref(name))}
    return answer({**listed, **ends, "has_more": {"type": "boolean"}})


def _batch() -> Schema:
    return answer(
        {
            "id": ANY_TEXT,
            "object": one_of("batch"),
            "endpoint": ANY_TEXT,
            "status": one_of(*get_args(BatchState)),
            "errors": optional(OBJECT),
            "input_file_id": ANY_TEXT,
            "output_file_id": optional(ANY_TEXT),
            "error_file_id": optional(ANY_TEXT),
            "completion_window": ANY_TEXT,
            "created_at": COUNT,
            "expires_at": COUNT,
            "request_counts": answer(dict.fromkeys(("total", "completed", "failed"), COUNT)),
            "metadata": optional(_METADATA),
            **{f"{state}_at": optional(COUNT) for state in _TIMES},
        }
    )
