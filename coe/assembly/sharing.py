"""What one of several processes serves of a pool: its share of what is bounded."""

from __future__ import annotations

from dataclasses import replace

from coe.assembly.hosting import is_hosted
from coe.config import Config
from coe.errors import ConfigError
from coe.experts import Expert, ExpertPool


def share_of(config: Config, index: int, n: int) -> Config:
    """The configuration for the process in this place among `n`, from 0: together they ask an
    expert for no more at once than one gateway would.

    Raises `ConfigError` for a pool that cannot be served by so many.
    """
    hosted = [expert.id for expert in config.pool if is_hosted(expert)]
    if hosted:
        raise ConfigError(
            f"{', '.join(hosted)}: the gateway hosts these itself, and only one process can "
            "manage their memory; leave --workers out, or run them as servers of their own and "
            "name those here (engine kind openai, without `footprint`)",
            file=str(config.file),
            key="experts",
        )
    experts = (_shared(config, expert, index, n) for expert in config.pool)
    return replace(config, pool=ExpertPool(tuple(experts)))


def _shared(config: Config, expert: Expert, index: int, n: int) -> Expert:
    hosting = expert.hosting
    if hosting.max_in_flight is None:
        return expert
    if hosting.max_in_flight < n:
        raise ConfigError(
            f"expert {expert.id!r} answers {hosting.max_in_flight} at once, which {n} workers "
            f"cannot divide; start at most {hosting.max_in_flight}",
            file=str(config.file),
            key="experts",
        )
    mine = replace(
        hosting,
        max_in_flight=_part(hosting.max_in_flight, index, n),
        max_queued=_part(hosting.max_queued, index, n),
    )
    return replace(expert, hosting=mine)


def _part(whole: int, index: int, n: int) -> int:
    return whole // n + (index < whole % n)
