"""Takes expired files away: at the start, and then every hour."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from coe.errors import StoreError

_LOG = logging.getLogger("coe.service")
EVERY_S = 3600.0


async def sweeping(sweep: Callable[[], Awaitable[int]], every_s: float = EVERY_S) -> None:
    """Sweeps until it is cancelled. A disk that fails is tried again the next time."""
    while True:
        try:
            n_swept = await sweep()
        except (OSError, StoreError) as error:
            _LOG.error("expired files cannot be swept away: %s", error)
        else:
            if n_swept:
                _LOG.info("%d expired files were swept away", n_swept)
        await asyncio.sleep(every_s)
