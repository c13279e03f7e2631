"""When a batch, which is in no hurry, asks again what was refused."""

from __future__ import annotations

from coe.engines.upstream_busy import retry_after_of
from coe.errors import AdmissionError, CoeError

MOST_PAUSES = 8
"""After so many an expert that has no time counts as failed."""
_LEAST_S = 0.1
_MOST_S = 60.0


def pause_s(error: Exception, n_pauses: int) -> float | None:
    """Seconds to wait before the request is put again; None: it has failed.

    What this gateway refuses for now is put again for as long as the batch has time.
    """
    told_s = retry_after_of(error) if isinstance(error, CoeError) else None
    if told_s is None or (n_pauses >= MOST_PAUSES and not isinstance(error, AdmissionError)):
        return None
    return min(_MOST_S, max(_LEAST_S, told_s))
