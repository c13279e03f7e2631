"""Who there is: the site, one lane for each expert with weights of its own, adapters on theirs."""

from __future__ import annotations

from dataclasses import replace

from coe.errors import ConfigError, RequestError, UnknownExpert
from coe.scheduling.lane import Departure, Lane
from coe.scheduling.terms import Site, Tenant


class Roster:
    """Changes only when an operator adds or removes an expert."""

    def __init__(self, site: Site, rate_window_s: float) -> None:
        self.site = site
        self._rate_window_s = rate_window_s
        self.hosts = {tenant.expert_id: self._lane_for(tenant) for tenant in site.hosts}
        """Expert with weights of its own → its lane. The same dict for good."""
        self._lanes = {t.expert_id: self.hosts[t.base or t.expert_id] for t in site.tenants}

    def __contains__(self, expert_id: str) -> bool:
        return expert_id in self._lanes

    def lane(self, expert_id: str) -> Lane:
        lane = self._lanes.get(expert_id)
        if lane is None:
            raise UnknownExpert(expert_id, self._lanes)
        return lane

    def get(self, expert_id: str) -> Lane | None:
        """None for an expert that is not known, or no longer."""
        return self._lanes.get(expert_id)

    def lane_of_granted(self, ticket_id: str, expert_id: str) -> Lane | None:
        """Where a granted ticket counts, also that of an adapter that has been removed since."""
        lane = self._lanes.get(expert_id)
        if lane is not None and ticket_id in lane.granted:
            return lane
        return next((one for one in self.hosts.values() if ticket_id in one.granted), None)

    def add(self, tenant: Tenant) -> Lane:
        """The lane of one more expert. Raises `ConfigError` if it could never be loaded, or would
        keep another from it, and changes nothing then.
        """
        id_ = tenant.expert_id
        if id_ in self._lanes:
            is_going = self._lanes[id_].departure is Departure.FOR_GOOD
            state = "is still leaving; add it again once it has left" if is_going else "exists"
            raise ConfigError(f"expert {id_!r} {state}")
        site = replace(self.site, tenants=(*self.site.tenants, tenant))
        if tenant.base is not None:
            lane = self._lanes[tenant.base]
            if lane.departure is Departure.FOR_GOOD:
                raise ConfigError(f"the base {tenant.base!r} of {id_!r} is being removed")
        else:
            lane = self.hosts[id_] = self._lane_for(tenant)
        self._lanes[id_] = lane
        self.site = site
        return lane

    def check_dismissable(self, expert_id: str) -> None:
        """Raises `UnknownExpert`, and `RequestError` for an adapter."""
        base = self.lane(expert_id).expert_id
        if base != expert_id:
            raise RequestError(
                f"expert {expert_id!r} is an adapter and takes no room of its own; send its base "
                f"{base!r} away"
            )

    def check_removable(self, expert_id: str) -> None:
        """Raises `UnknownExpert`, and `RequestError` for the base of others."""
        self.lane(expert_id)
        adapters = [t.expert_id for t in self.site.tenants if t.base == expert_id]
        if adapters:
            raise RequestError(
                f"expert {expert_id!r} is the base of {', '.join(adapters)}; remove those first"
            )

    def is_adapter(self, expert_id: str) -> bool:
        return expert_id in self._lanes and expert_id not in self.hosts

    def forget(self, expert_id: str) -> None:
        """Its name is free from now on."""
        self.hosts.pop(expert_id, None)
        del self._lanes[expert_id]
        left = tuple(t for t in self.site.tenants if t.expert_id != expert_id)
        self.site = replace(self.site, tenants=left)

    def _lane_for(self, tenant: Tenant) -> Lane:
        return Lane(tenant, self._rate_window_s)
