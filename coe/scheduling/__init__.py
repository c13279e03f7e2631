"""Scheduling: which expert is resident, and who may run on it.

Pure: events in, effects out. DESIGN.md has the rules, their reasons and their bounds.
"""

from coe.scheduling.effects import Effects, Scheduler
from coe.scheduling.eviction import EvictionPolicy, LookAhead, Resident
from coe.scheduling.scheduler import SwapScheduler
from coe.scheduling.terms import Residency, Site, SwapCosts, SwapRules, Tenant, Ticket

__all__ = [
    "Effects",
    "EvictionPolicy",
    "LookAhead",
    "Residency",
    "Resident",
    "Scheduler",
    "Site",
    "SwapCosts",
    "SwapRules",
    "SwapScheduler",
    "Tenant",
    "Ticket",
]
