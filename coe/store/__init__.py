"""The gateway's state: keys, spend, limits, cached responses, files, batches and decisions.

All of it is in one folder, and what several replicas have to agree on in a Redis, too. A request
never fails because of the store: without Redis a replica goes on alone, and without a disk what
is in memory still holds.
"""

from coe.store.batches import Batches, BatchOver, BatchState, StoredBatch, UnknownBatch
from coe.store.cache import CachedResponse, ResponseCache, cache_key
from coe.store.decisions import DecisionsLog, LoggedDecision
from coe.store.files import Files, FileTooLarge, StoredFile, UnknownFile
from coe.store.holding import Hold, held_store
from coe.store.keys import ApiKey, KeyLimits, Keys
from coe.store.ledger_responses import LedgerResponses
from coe.store.limits import Allowance, Limits
from coe.store.opening import Store, StoreHealth, open_keys, open_store
from coe.store.settings import FOLDER, SemanticSettings, StoreSettings
from coe.store.spend import Reservation, Spend, Spent

__all__ = [
    "FOLDER",
    "Allowance",
    "ApiKey",
    "BatchOver",
    "BatchState",
    "Batches",
    "CachedResponse",
    "DecisionsLog",
    "FileTooLarge",
    "Files",
    "Hold",
    "KeyLimits",
    "Keys",
    "LedgerResponses",
    "Limits",
    "LoggedDecision",
    "Reservation",
    "ResponseCache",
    "SemanticSettings",
    "Spend",
    "Spent",
    "Store",
    "StoreHealth",
    "StoreSettings",
    "StoredBatch",
    "StoredFile",
    "UnknownBatch",
    "UnknownFile",
    "cache_key",
    "held_store",
    "open_keys",
    "open_store",
]
