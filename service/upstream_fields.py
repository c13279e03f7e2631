"""Fields by which a client could choose where its request goes, or with whose key.

Each has been the way in somewhere: gateways merge the body over their own settings, and a body
with `api_base` then carries the operator's key to an address of the client's. None reaches an
expert here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from coe.service.errors import InvalidRequest

# The last two lines are orders that vLLM takes from a request and that are its operator's to give.
_UPSTREAM_NAMES = """
    api_base base_url api_key api_version api_type api_host host endpoint organization
    user_config model_list model_info fallbacks context_window_fallbacks content_policy_fallbacks
    mock_response mock_tool_calls mock_timeout mock_testing_fallbacks
    custom_llm_provider deployment_id region_name client http_client proxy proxies ssl_verify
    headers extra_headers default_headers extra_query default_query
    litellm_params litellm_settings litellm_credential_name router_settings_override
    input_cost_per_token output_cost_per_token hf_chat_template
    kv_transfer_params ec_transfer_params lora_request mm_processor_kwargs media_io_kwargs
    logits_processors prompt_embeds
"""
UPSTREAM_FIELDS = frozenset(_UPSTREAM_NAMES.split())
_UPSTREAM_PREFIXES = ("aws_", "azure_", "vertex_")
EXTENSIONS = ("extra_body", "coe")
"""Fields under which clients send what has no place among the others."""


def refuse_upstream_fields(raw: Mapping[str, object]) -> None:
    """Refuses them by name: beside the other fields, and at any depth of the extensions.

    Elsewhere the names are free: a tool may well have a parameter `headers`.
    """
    for name in raw:
        if _is_upstream(name):
            raise operators_field(name)
    for extension in EXTENSIONS:
        if extension in raw:
            for place, name in keys_below(raw[extension], extension):
                if _is_upstream(name):
                    raise operators_field(f"{place}.{name}")


def operators_field(place: str) -> InvalidRequest:
    return InvalidRequest(
        f"{place} is set by the gateway's operator and not by a request; leave it out",
        param=place,
        code="unsupported_parameter",
    )


def keys_below(value: object, place: str) -> Iterator[tuple[str, str]]:
    """Every key below a value, after the place of the object it is a key of."""
    left: list[tuple[object, str]] = [(value, place)]
    while left:
        value, place = left.pop()
        if isinstance(value, dict):
            for name, inner in value.items():
                yield place, str(name)
                left.append((inner, f"{place}.{name}"))
        elif isinstance(value, list):
            left += [(inner, f"{place}[{index}]") for index, inner in enumerate(value)]


def _is_upstream(name: str) -> bool:
    if name in UPSTREAM_FIELDS:
        return True
    plain = name.lower().replace("-", "_")
    return plain in UPSTREAM_FIELDS or plain.startswith(_UPSTREAM_PREFIXES)
