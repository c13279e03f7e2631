"""Aggregators: several completions of one query become one answer."""

from __future__ import annotations

from coe.aggregation.base import (
    Aggregator,
    AsksInTurn,
    First,
    Read,
    StopsEarly,
    WantsScores,
    Writes,
)
from coe.aggregation.chain import Chain
from coe.aggregation.prompts import blocks
from coe.aggregation.reading import stated_answer
from coe.aggregation.synthesis import LLMAggregator, Writer
from coe.aggregation.votes import MajorityVote, WeightedVote
from coe.votes import is_settled

__all__ = [
    "Aggregator",
    "AsksInTurn",
    "Chain",
    "First",
    "LLMAggregator",
    "MajorityVote",
    "Read",
    "StopsEarly",
    "WantsScores",
    "WeightedVote",
    "Writer",
    "Writes",
    "blocks",
    "is_settled",
    "stated_answer",
]
