"""Symbolic-MoE's arithmetic: from right and wrong answers to the probability of each expert.

Every fitted query adds +1 or -1 to an expert's record of each skill the query needs. For a new
query, an expert's suitability S is the sum of its record over the query's skills and its
competency gamma comes from the sum over all skills; both make the probability p of recruiting
it. The paper (arXiv 2503.05641, section 3) and the authors' released code differ, so there are
two forms:

- "paper": gamma is the share of all experts' totals, p = softmax(gamma S / T). Our reading,
  for it is known to us from two reports of the paper and not from its text.
- "code" (`recruit_agents.py`): totals are shifted to be positive and raised to 1 / T before they
  are shared out; experts with S <= 0 are left out, unless all would be, when S is shifted; p is
  in proportion to gamma S.

The paper's form is for experts that are right more often than wrong: it multiplies signed
numbers, so that of two experts with the same negative S it prefers the one of *less* competency,
and with large records its softmax leaves one expert. The code's form has neither trait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from coe.routers.annotators import Skills
from coe.routing import FloatArray

Form = Literal["paper", "code"]
FORMS: tuple[Form, ...] = ("paper", "code")
TEMPERATURE = 0.5
"""T of both forms: what a relevance is divided by, or the inverse of an exponent."""


def skill_records(
    scores: FloatArray, needed: Sequence[Skills], skills: Sequence[str]
) -> FloatArray:
    """(n_skills, n_experts) right over wrong answers to the queries that need each skill.

    A query counts once for each of its skills. Ours: a score between 0 and 1 counts 2 score - 1,
    and as NaN means not measured, an expert measured on a share of a skill's queries has its sum
    divided by that share; one measured on none has its overall rate there.
    """
    row_of = {skill: i for i, skill in enumerate(skills)}
    pairs = [(row_of[s], q) for q, of_query in enumerate(needed) for s in of_query]
    rows, columns = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
    measured = ~np.isnan(scores)
    signed = np.where(measured, 2.0 * scores - 1.0, 0.0)
    sums = np.zeros((len(skills), scores.shape[1]))
    trials = np.zeros_like(sums)
    np.add.at(sums, rows, signed[columns])
    np.add.at(trials, rows, measured[columns].astype(float))
    asked = np.bincount(rows, minlength=len(skills))[:, None]
    overall = signed.sum(axis=0) / np.maximum(measured.sum(axis=0), 1)
    rates = np.where(trials > 0, sums / np.maximum(trials, 1), overall)
    records: FloatArray = np.where(trials == asked, sums, rates * asked)
    return records


def competency(totals: FloatArray, form: Form, temperature: float = TEMPERATURE) -> FloatArray:
    """(n_experts,) gamma from each expert's sum over all skills; adds up to 1.

    The paper divides by the sum of the totals. Where that is negative though some expert is right
    more often than wrong, the better an expert the lower its gamma, and at 0 there is none. Ours:
    there the totals are shifted as in the code. It matters: with 28 experts on MMLU-Pro, 3 of
    them with positive totals, top-1 routing then gets 71.5 % instead of 51.0 % (best single expert
    70.7 %, 5-fold on train).
    """
    reverses = totals.sum() <= 0 <= totals.max()
    if reverses or (form == "code" and totals.min() < 0):
        totals = totals - totals.min() + 1.0
    powers = totals ** (1.0 / temperature) if form == "code" else totals
    shares: FloatArray = powers / powers.sum()
    return shares


def probabilities(
    suitability: FloatArray, gamma: FloatArray, form: Form, temperature: float = TEMPERATURE
) -> FloatArray:
    """(n_queries, n_experts) p(expert | query); rows add up to 1.

    `suitability` is (n_queries, n_experts). Where every expert with a positive one has no
    competency the code divides by zero; ours: competency is passed over.
    """
    if form == "paper":
        relevance = gamma * suitability / temperature
        weights = np.exp(relevance - relevance.max(axis=1, keepdims=True, initial=-np.inf))
    else:
        shifted = suitability - suitability.min(axis=1, keepdims=True, initial=np.inf) + 1.0
        somebody = (suitability > 0).any(axis=1, keepdims=True)
        local = np.where(somebody, np.maximum(suitability, 0.0), shifted)
        weights = gamma * local
        weights = np.where(weights.any(axis=1, keepdims=True), weights, local)
    shares: FloatArray = weights / weights.sum(axis=1, keepdims=True)
    return shares
