"""Puts the experts that share this machine's memory under one scheduler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from coe.config import CPU, Config
from coe.engines.base import Engine
from coe.engines.weights import weights_bytes
from coe.errors import ConfigError, UnknownExpert
from coe.experts import Expert, LocalSpec, VllmLoraSpec, VllmSpec
from coe.scheduling import Effects, Site, SwapCosts, SwapRules, SwapScheduler, Tenant
from coe.scheduling.dispatcher import Dispatcher
from coe.scheduling.feasibility import bound_warning
from coe.scheduling.hosted import HostedEngine
from coe.scheduling.rebalancer import Placements, Rebalancer, measured_site

_GIB = 1024**3
_IN_FLIGHT = 64
"""What an engine is given at once where nobody says how many; vLLM queues the rest itself."""


def hosted(
    config: Config,
    engines: Mapping[str, Engine],
    make: Callable[[Site, Effects, SwapRules], SwapScheduler] = SwapScheduler,
    is_open: bool = False,
) -> tuple[dict[str, Engine], Dispatcher | None]:
    """The engines, those of hosted experts behind a dispatcher; None where nobody is hosted.

    Hosted is what CoE starts itself: local experts, vLLM servers, and any other that says how
    much memory it takes. `is_open`: experts may be added later, so there is a dispatcher in any
    case. Raises `ConfigError` for experts that can never fit.
    """
    site = site_of(config) or Site(_devices(config), (), config.host_memory_gib)
    if not site.tenants and not is_open:
        return dict(engines), None
    inner = {tenant.expert_id: engines[tenant.expert_id] for tenant in site.tenants}
    schedulers: list[SwapScheduler] = []

    def scheduler(effects: Effects) -> SwapScheduler:
        schedulers.append(make(site, effects, rules_of(config)))
        return schedulers[-1]

    dispatcher = Dispatcher(inner, scheduler, config.startup_timeout_s)
    _rebalance(config, dispatcher, schedulers[-1])
    wrapped = {id_: HostedEngine(engine, dispatcher) for id_, engine in inner.items()}
    return {**engines, **wrapped}, dispatcher


def rules_of(config: Config) -> SwapRules:
    told = config.scheduling
    return SwapRules(
        beta=told.beta,
        max_wait_s=told.max_wait_s,
        quantum_s=told.quantum_s,
        max_queued=told.max_queued,
    )


def bound_warning_of(config: Config) -> str | None:
    """One line for the operator if `max_wait_s` cannot be held under full load."""
    site = site_of(config)
    return None if site is None else bound_warning(site, rules_of(config))


def _rebalance(config: Config, dispatcher: Dispatcher, scheduler: SwapScheduler) -> None:
    """Lets experts change devices with demand, if the file says how often."""
    every_s = config.scheduling.rebalance_s
    if every_s is None:
        return
    if len(config.devices) < 2:
        raise ConfigError(
            "experts can change devices only where `devices` names two or more; leave it out",
            file=str(config.file),
            key="scheduling.rebalance_s",
        )

    def tell(placements: Placements) -> None:
        dispatcher.tell(lambda now: scheduler.on_placements(now, placements))

    measured = partial(measured_site, scheduler)
    dispatcher.accompany(Rebalancer(measured, tell, every_s))


def site_of(config: Config) -> Site | None:
    """The memory that hosted experts share and how much each takes; None where nobody is hosted."""
    tenants = tuple(tenant_of(config, expert) for expert in config.pool if is_hosted(expert))
    if not tenants:
        return None
    try:
        return Site(_devices(config), tenants, config.host_memory_gib)
    except (ConfigError, UnknownExpert) as error:
        raise ConfigError(str(error), file=str(config.file), key="experts") from None


def _devices(config: Config) -> dict[str, float]:
    return {CPU: config.local_memory_gib, **config.devices}


def is_hosted(expert: Expert) -> bool:
    is_ours = isinstance(expert.engine, LocalSpec | VllmSpec | VllmLoraSpec)
    return is_ours or expert.footprint.gib > 0


def _can_sleep(expert: Expert) -> bool:
    return not isinstance(expert.engine, VllmSpec) or expert.engine.sleep_level > 0


def _base(expert: Expert) -> str | None:
    return expert.engine.base if isinstance(expert.engine, VllmLoraSpec) else None


def tenant_of(config: Config, expert: Expert) -> Tenant:
    footprint, hosting = expert.footprint, expert.hosting
    places = hosting.devices or _usual_places(config, expert)
    in_flight = hosting.max_in_flight or _usual_in_flight(expert)
    return Tenant(
        expert.id,
        gib=_gib(config, expert),
        placements=places,
        asleep_gib=footprint.asleep_gib if _can_sleep(expert) else None,
        residue_gib=footprint.residue_gib,
        costs=SwapCosts(footprint.load_s or 1.0, footprint.wake_s, footprint.sleep_s),
        service_s=footprint.service_s,
        max_in_flight=in_flight,
        max_queued=hosting.max_queued,
        pinned=hosting.pinned,
        apart=frozenset(hosting.apart),
        base=_base(expert),
    )


def _usual_places(config: Config, expert: Expert) -> tuple[tuple[str, ...], ...]:
    """In this process it is on the CPU; else on any of the devices named, if there are."""
    if isinstance(expert.engine, LocalSpec) or not config.devices:
        return ((CPU,),)
    return tuple((device,) for device in config.devices)


def _usual_in_flight(expert: Expert) -> int:
    return expert.engine.max_batch if isinstance(expert.engine, LocalSpec) else _IN_FLIGHT


def _gib(config: Config, expert: Expert) -> float:
    """As the file says, or as large as a local expert's weights will be."""
    if expert.footprint.gib > 0 or _base(expert) is not None:
        return expert.footprint.gib
    if isinstance(expert.engine, LocalSpec):
        try:
            return weights_bytes(Path(expert.engine.path), expert.engine.dtype) / _GIB
        except (OSError, ValueError):
            # It is told, by the engine, to whoever asks this expert; the others go on.
            return 0.0
    at = config.pool.ids.index(expert.id)
    raise ConfigError(
        f"expert {expert.id!r} is hosted here; say how much memory it takes on its device",
        file=str(config.file),
        key=f"experts[{at}].footprint.gib",
    )
