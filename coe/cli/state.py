"""What a gateway keeps, opened as its configuration says."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from coe.errors import ConfigError

if TYPE_CHECKING:
    from coe.config import Config
    from coe.service.settings import ServiceSettings
    from coe.service.similar import Similar
    from coe.store import Store


def open_state(
    config: Config, say: Callable[[str], None], worker: int | None = None
) -> Store | None:
    """Raises `ConfigError`, which says what to change. `worker`: one of several processes, for
    which the store is held.

    A gateway of which no state is wanted does without where another one has it open.
    """
    from coe.store import FOLDER, StoreSettings, open_store

    told = config.gateway
    redis_url = _redis_url(config)
    settings = StoreSettings(config.state_dir / FOLDER, redis_url, worker=worker)
    if told.cache_s is not None:
        settings = replace(settings, cache_ttl_s=told.cache_s)
    try:
        return open_store(settings)
    except ConfigError as error:
        if told.keys or told.cache_s is not None or redis_url is not None:
            raise
        say(f"warning: no files, batches and log of decisions here: {error}")
        return None


def settings_of(config: Config) -> ServiceSettings:
    from coe.service.request_limits import RequestLimits
    from coe.service.settings import ServiceSettings

    return ServiceSettings(
        limits=RequestLimits(media_hosts=config.gateway.media_hosts),
        needs_key=config.gateway.keys,
        caches=config.gateway.cache_s is not None,
    )


def similar_of(config: Config) -> Similar | None:
    """Where near asks are answered; None: nowhere. Raises `ConfigError`."""
    from coe.assembly.engines import encoder_for
    from coe.service.similar import Similar
    from coe.store.semantic import SemanticCache
    from coe.store.settings import SemanticSettings

    told = config.gateway
    if told.similar_from is None:
        return None
    if told.cache_s is None:
        raise ConfigError(
            "near asks are answered from the cache; say how long it keeps answers, as `cache_s`",
            file=str(config.file),
            key="gateway.similar_from",
        )
    encoder = encoder_for(config.encoder)
    cache = SemanticCache(encoder.dim, SemanticSettings(told.similar_from, ttl_s=told.cache_s))
    return Similar(cache, encoder.encode, config.encoder.kind != "static")


def _redis_url(config: Config) -> str | None:
    name = config.gateway.redis_url_env
    if name is None:
        return None
    url = os.environ.get(name)
    if not url:
        raise ConfigError(
            f"the environment variable {name} with the address of Redis is not set",
            file=str(config.file),
            key="gateway.redis_url_env",
        )
    return url
