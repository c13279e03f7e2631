"""MoE²: the gate, the costs of a set, and the exact choice of a set."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coe.errors import ConfigError, DatasetError, PoolMismatch, RoutingError, UnknownExpert
from coe.experts import Expert, ExpertPool, Footprint, ScriptedSpec
from coe.outcomes import BoolArray, FloatArray, OutcomeTable
from coe.routers.artifacts import Artifact
from coe.routers.edge import EdgeScorer, GatedTopK, keep_within
from coe.routers.edge_costs import (
    Budgets,
    EdgeCosts,
    EdgeRates,
    Limits,
    shannon_bits_per_s,
)
from coe.routers.edge_gate import (
    FLOOR,
    Gate,
    GateSettings,
    mixture_loss,
    subset_gaps,
    top_k_weights,
    train_gate,
)
from coe.routers.edge_heuristics import best_single, cheapest_first, greedy, random_set
from coe.routers.edge_selection import TopValue, branch_reduce_bound, exhaustive, polyblock
from coe.routing import Encoder, Explainer
from coe.types import Query

ASKED = [Query("sum plus"), Query("river city", category="places"), Query("unknown"), Query("")]
FREE = GateSettings(l2=0.0)


def _mask(columns: tuple[int, ...], n: int) -> BoolArray:
    mask = np.zeros(n, bool)
    mask[list(columns)] = True
    return mask


# --- the scorer -----------------------------------------------------------------------------


def test_scores_are_gate_weights(table: OutcomeTable, encoder: Encoder) -> None:
    scorer = EdgeScorer.fit(table, encoder)
    scores = scorer.score(ASKED)
    assert scorer.name == "edge"
    assert scorer.expert_ids == table.expert_ids
    np.testing.assert_allclose(scores.sum(axis=1), 1.0)
    assert scores[:2].argmax(axis=1).tolist() == [0, 1]
    assert scorer.score([]).shape == (0, 3)
    np.testing.assert_allclose(np.vstack([scorer.score([q]) for q in ASKED]), scores, atol=1e-9)


@pytest.mark.parametrize("hidden", [0, 8])
def test_fit_is_repeatable(table: OutcomeTable, encoder: Encoder, hidden: int) -> None:
    first = EdgeScorer.fit(table, encoder, hidden=hidden).score(ASKED)
    np.testing.assert_array_equal(first, EdgeScorer.fit(table, encoder, hidden=hidden).score(ASKED))
    assert first[:2].argmax(axis=1).tolist() == [0, 1]


def test_artifact_round_trips(table: OutcomeTable, encoder: Encoder, tmp_path: Path) -> None:
    scorer = EdgeScorer.fit(table, encoder, hidden=4).within(("geo", "calc"))
    scorer.artifact().save(tmp_path / "a")
    again = EdgeScorer(Artifact.load(tmp_path / "a"), encoder)
    np.testing.assert_array_equal(scorer.score(ASKED), again.score(ASKED))
    assert again.subset == ("calc", "geo")
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text("utf-8"))
    assert manifest["scorer"] == "edge"
    assert manifest["data_digest"] == table.digest()
    with pytest.raises(PoolMismatch, match="coe fit"):
        scorer.artifact().check(("geo", "calc", "chem"), encoder.name)


def test_mask_keeps_the_odds_of_those_inside(table: OutcomeTable, encoder: Encoder) -> None:
    scorer = EdgeScorer.fit(table, encoder)
    whole, inside = scorer.score(ASKED), scorer.within(("calc", "chem")).score(ASKED)
    assert (inside[:, 1] == 0).all()
    np.testing.assert_allclose(inside[:, 0] / inside[:, 2], whole[:, 0] / whole[:, 2])
    np.testing.assert_array_equal(
        scorer.within(("calc",)).within(table.expert_ids).score(ASKED), whole
    )


def test_mask_of_unknown_or_no_experts_is_refused(table: OutcomeTable, encoder: Encoder) -> None:
    scorer = EdgeScorer.fit(table, encoder)
    with pytest.raises(UnknownExpert, match="did you mean 'calc'"):
        scorer.within(("clac",))
    with pytest.raises(ConfigError, match="at least one"):
        scorer.within(())


def test_unmeasured_outcomes_are_not_wrong_answers(table: OutcomeTable, encoder: Encoder) -> None:
    scores = table.scores.copy()
    scores[::2, 1] = np.nan
    holed = EdgeScorer.fit(replace(table, scores=scores), encoder).score(ASKED)
    assert abs(holed - EdgeScorer.fit(table, encoder).score(ASKED))[1, 1] < 0.25


def test_never_measured_expert_stays_outside(table: OutcomeTable, encoder: Encoder) -> None:
    scores = table.scores.copy()
    scores[:, 2] = np.nan
    scorer = EdgeScorer.fit(replace(table, scores=scores), encoder)
    assert scorer.subset == ("calc", "geo")
    assert (scorer.score(ASKED)[:, 2] == 0).all()
    with pytest.raises(ConfigError, match="chem was never measured"):
        scorer.within(("geo", "chem"))
    with pytest.raises(DatasetError, match="at least one measured"):
        EdgeScorer.fit(replace(table, scores=np.full_like(scores, np.nan)), encoder)


def test_explanation_names_experts_and_the_kept_set(table: OutcomeTable, encoder: Encoder) -> None:
    scorer = EdgeScorer.fit(table, encoder)
    assert isinstance(scorer, Explainer)
    (reason,) = scorer.within(("geo", "chem")).explain(Query("river city"))
    assert reason.startswith("the gate gives geo")
    assert "2 of 3 experts" in reason
    (alone,) = scorer.within(("geo",)).explain(Query("river city"))
    assert "geo 100%" in alone


def test_gated_top_k_calls_nothing_outside_the_set() -> None:
    pool = ExpertPool(tuple(Expert(id_, ScriptedSpec()) for id_ in ("a", "b", "c")))
    assert GatedTopK(3).choose(np.array([0.3, 0.0, 0.7]), pool) == ("c", "a")
    assert GatedTopK(1).choose(np.array([0.5, 0.5, 0.0]), pool) == ("a",)
    assert GatedTopK(2).choose(np.zeros(3), pool) == ("a",)
    with pytest.raises(ConfigError, match="at least 1"):
        GatedTopK(0)


# --- the gate -------------------------------------------------------------------------------


def test_top_k_weights_by_hand() -> None:
    weights = np.array([[0.5, 0.3, 0.2], [0.25, 0.5, 0.25]])
    np.testing.assert_allclose(
        top_k_weights(weights, 2), [[0.625, 0.375, 0.0], [1 / 3, 2 / 3, 0.0]]
    )
    with pytest.raises(ConfigError, match="1 to 3"):
        top_k_weights(weights, 4)


def test_mixture_loss_by_hand() -> None:
    # Logits ln 3 and 0: weights 3/4 and 1/4. The second query lacks the first expert.
    gate = Gate(((np.zeros((1, 2)), np.array([np.log(3.0), 0.0])),))
    outcomes = np.array([[1.0, 0.0], [np.nan, 0.5]])
    loss = mixture_loss(gate, np.zeros((2, 1)), outcomes, np.ones(2, bool))
    assert loss == pytest.approx(-(np.log(0.75 + 0.25 * FLOOR) + np.log(0.5)) / 2)
    top = mixture_loss(gate, np.zeros((2, 1)), outcomes, np.ones(2, bool), k=1)
    assert top == pytest.approx(-(np.log(1.0) + np.log(0.5)) / 2)


@pytest.mark.parametrize("hidden", [0, 3])
def test_trained_gate_is_a_stationary_point(hidden: int) -> None:
    rng = np.random.default_rng(0)
    vectors, outcomes = rng.normal(size=(40, 4)), rng.random((40, 3))
    outcomes[::7, 1] = np.nan
    everyone = np.ones(3, bool)
    settings = GateSettings(l2=0.01, hidden=hidden, max_iterations=2000)

    def objective(gate: Gate) -> float:
        squares = sum(float((weights**2).sum()) for weights, _ in gate.layers)
        return mixture_loss(gate, vectors, outcomes, everyone) + 0.005 * squares

    gate = train_gate(vectors, outcomes, everyone, settings)
    best = objective(gate)
    assert best < objective(Gate(tuple((0.5 * w, b) for w, b in gate.layers)))
    for layer, (weights, biases) in enumerate(gate.layers):
        for at in np.ndindex(*weights.shape):
            layers = list(gate.layers)
            for shift in (-1e-3, 1e-3):
                moved = weights.copy()
                moved[at] += shift
                layers[layer] = (moved, biases)
                assert objective(Gate(tuple(layers))) >= best - 1e-7


def test_gap_is_zero_where_exactly_one_expert_is_right() -> None:
    # Then the loss is a cross-entropy, and a softmax's odds do not depend on who else is there.
    right = np.repeat([0, 1, 2], [50, 30, 20])
    outcomes = np.eye(3)[right]
    for gap in subset_gaps(np.zeros((100, 1)), outcomes, [(0, 1), (1, 2), (0, 2)], FREE):
        assert gap.gap == pytest.approx(0.0, abs=2e-3)
        assert gap.retrained_loss > 0.3


def test_gap_is_open_where_twins_share_their_weight() -> None:
    # Two twins right on half, a third expert on the other half: weights 1/4, 1/4, 1/2. Without
    # one twin the mask leaves 1/3 and 2/3, where retraining gives 1/2 and 1/2.
    outcomes = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]] * 20)
    (gap,) = subset_gaps(np.zeros((40, 1)), outcomes, [(0, 2)], FREE)
    masked = -0.5 * (np.log(1 / 3 + FLOOR * 2 / 3) + np.log(2 / 3 + FLOOR / 3))
    assert gap.masked_loss == pytest.approx(masked, abs=1e-4)
    assert gap.retrained_loss == pytest.approx(-np.log(0.5 + 0.5 * FLOOR), abs=1e-4)
    assert gap.gap > 0.05


# --- costs and budgets ----------------------------------------------------------------------


def _costs(delays: list[list[float]], energies: list[list[float]], **more: float) -> EdgeCosts:
    ids = tuple("abcdefgh"[: len(delays[0])])
    return EdgeCosts(ids, np.array(delays), np.array(energies), **more)


def test_set_costs_by_hand() -> None:
    costs = _costs(
        [[1.0, 3.0], [2.0, 1.0]],
        [[10.0, 20.0], [30.0, 40.0]],
        transmission_s=0.5,
        transmission_j=1.0,
        aggregation_s=0.1,
        aggregation_s_per_expert=0.2,
    )
    both = np.ones(2, bool)
    np.testing.assert_allclose(costs.set_delay_s(both), [3.0 + 0.5 + 0.5, 2.0 + 0.5 + 0.5])
    np.testing.assert_allclose(costs.set_energy_j(both), [32.0, 72.0])
    limits = Limits(
        costs, Budgets(energy_j=60.0, delay_s={"chat": 3.5}, delay_all_s=3.5), ["chat", "code"]
    )
    assert limits.names == ("energy_j", "delay_all_s", "delay_s[chat]")
    np.testing.assert_allclose(limits.usage(both), [52.0, 3.5, 4.0])
    assert not limits.admits(both)
    np.testing.assert_allclose(
        limits.usage_with_each(_mask((0,), 2)), [[21.0, 2.3, 1.8], [52.0, 3.5, 4.0]]
    )


def test_pool_costs_follow_from_rates() -> None:
    pool = ExpertPool((Expert("a", ScriptedSpec(), footprint=Footprint(watts=50.0)),))
    rates = EdgeRates(np.array([1000.0]), np.array([20.0]), 32_000.0, 2.0)
    costs = EdgeCosts.of_pool(pool, rates, np.array([[500.0, 100.0]]), (0.1, 0.0))
    assert costs.delay_s[0, 0] == pytest.approx(0.5 + 5.0)
    assert costs.energy_j[0, 0] == pytest.approx(5.5 * 50)
    assert costs.transmission_s == pytest.approx(600 * 32 / 32_000)
    assert costs.transmission_j == pytest.approx(1.2)
    assert shannon_bits_per_s(1e6, 1.0, 3.0, 1.0) == pytest.approx(2e6)
    nameless = ExpertPool((Expert("b", ScriptedSpec()),))
    with pytest.raises(ConfigError, match="no watts are known for b"):
        EdgeCosts.of_pool(nameless, rates, np.array([[500.0, 100.0]]))


def test_impossible_budget_names_itself_and_the_least_it_must_be() -> None:
    limits = Limits(_costs([[1.0, 2.0]], [[7.0, 5.0]]), Budgets(energy_j=4.0, delay_all_s=3.0))
    for search in (branch_reduce_bound, polyblock, exhaustive, best_single, greedy, cheapest_first):
        with pytest.raises(RoutingError, match=r"energy_j 4 is below .* 5 \(b\)") as caught:
            search(TopValue(np.ones((1, 2))), limits)
        assert "delay" not in str(caught.value)


def test_budgets_that_only_clash_name_the_nearest_expert() -> None:
    limits = Limits(_costs([[1.0, 9.0]], [[7.0, 5.0]]), Budgets(energy_j=6.0, delay_all_s=2.0))
    with pytest.raises(RoutingError, match="nearest is 'a', which needs energy_j 7, delay_all_s 1"):
        limits.affordable()


def test_malformed_costs_and_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match="energy_j: has shape"):
        _costs([[1.0, 2.0]], [[1.0]])
    with pytest.raises(ConfigError, match="delay_s: must be finite"):
        _costs([[-1.0]], [[1.0]])
    costs = _costs([[1.0], [1.0]], [[1.0]])
    with pytest.raises(ConfigError, match="did you mean 'chat'"):
        Limits(costs, Budgets(delay_s={"chatt": 1.0}), ["chat", "chat"])
    with pytest.raises(ConfigError, match="1 classes for 2 queries"):
        Limits(costs, Budgets(delay_s={"chat": 1.0}), ["chat"])


# --- selection ------------------------------------------------------------------------------


def test_selection_by_hand() -> None:
    # 6 J: {b, c} covers both queries for 5 J; a alone is best single but leaves no room for c.
    scores = np.array([[0.9, 0.8, 0.0], [0.5, 0.0, 0.9]])
    limits = Limits(_costs([[0.0] * 3], [[4.0, 2.0, 3.0]]), Budgets(energy_j=6.0))
    for search in (branch_reduce_bound, polyblock, exhaustive):
        chosen = search(TopValue(scores), limits)
        assert chosen.columns == (1, 2)
        assert chosen.value == pytest.approx(0.85)
        np.testing.assert_allclose(chosen.usage, [5.0])
    assert best_single(TopValue(scores), limits).columns == (0,)
    assert greedy(TopValue(scores), limits).columns == (1, 2)
    assert cheapest_first(TopValue(scores), limits).columns == (1, 2)


def test_members_that_add_nothing_are_left_out() -> None:
    scores = np.array([[0.9, 0.2, 0.1]])
    limits = Limits(_costs([[0.0] * 3], [[4.0, 2.0, 3.0]]), Budgets())
    assert branch_reduce_bound(TopValue(scores), limits).columns == (0,)


def test_incremental_values_equal_direct_ones() -> None:
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 4, size=(12, 6)) / 4.0  # many ties
    for k in (1, 2, 4, 6):
        value = TopValue(scores, k)
        for code in range(1, 64):
            members = (code >> np.arange(6)) % 2 == 1
            kept = np.sort(scores[:, members], axis=1)[:, ::-1][:, :k]
            assert value.of(members) == pytest.approx(kept.sum() / (12 * k))
            for i in range(6):
                less, more = members.copy(), members.copy()
                less[i], more[i] = False, True
                expected = value.of(less) if less.any() else 0.0
                assert value.without_each(members)[i] == pytest.approx(expected)
                assert value.with_each(members)[i] == pytest.approx(value.of(more))


def test_value_refuses_what_it_cannot_bound() -> None:
    for scores, k in ((np.array([[-0.1]]), 1), (np.array([[np.nan]]), 1), (np.ones((1, 2)), 3)):
        with pytest.raises(ConfigError):
            TopValue(scores, k)


def _instance(rng: np.random.Generator, most: int) -> tuple[TopValue, Limits, float | None]:
    """A random problem and the best value by brute force, None if no set fits it."""
    n, n_queries = int(rng.integers(2, most + 1)), 8
    scores = rng.random((n_queries, n))
    delays, energies = rng.random((n_queries, n)), rng.random((n_queries, n))
    energy_j = float(energies.mean(axis=0).sum() * rng.uniform(0.2, 0.8))
    tight, loose = (float(x) for x in rng.uniform(0.6, 1.1, 2))
    ids = tuple(str(i) for i in range(n))
    costs = EdgeCosts(ids, delays, energies, aggregation_s=0.02, aggregation_s_per_expert=0.01)
    limits = Limits(costs, Budgets(energy_j, {"chat": tight, "code": loose}), ["chat", "code"] * 4)
    # Every set at once: its maxima are those of the set without expert i, and expert i.
    top, slow = np.zeros((1, n_queries)), np.zeros((1, n_queries))
    energy, size = np.zeros(1), np.zeros(1)
    for i in range(n):
        top = np.concatenate([top, np.maximum(top, scores[:, i])])
        slow = np.concatenate([slow, np.maximum(slow, delays[:, i])])
        energy = np.concatenate([energy, energy + energies[:, i].mean()])
        size = np.concatenate([size, size + 1])
    delay = slow + (0.02 + 0.01 * size)[:, None]
    fits = (
        (energy <= energy_j) & (delay[:, ::2].mean(1) <= tight) & (delay[:, 1::2].mean(1) <= loose)
    )
    values = top.mean(axis=1)[1:][fits[1:]]
    return TopValue(scores), limits, float(values.max()) if len(values) else None


def _check_exact(n_instances: int, most: int) -> int:
    rng = np.random.default_rng(11)
    n_solved = 0
    for _ in range(n_instances):
        value, limits, best = _instance(rng, most)
        if best is None:
            with pytest.raises(RoutingError):
                branch_reduce_bound(value, limits)
            continue
        n_solved += 1
        boxes, walk = branch_reduce_bound(value, limits), polyblock(value, limits)
        for chosen in (boxes, walk):
            assert chosen.value == pytest.approx(best, abs=1e-12)
            assert limits.admits(chosen.members)
        for other in (greedy, cheapest_first, best_single):
            simple = other(value, limits)
            assert limits.admits(simple.members)
            assert simple.value <= best + 1e-12
        assert random_set(value, limits, seed=n_solved).value <= best + 1e-12
    return n_solved


def test_searches_equal_brute_force() -> None:
    assert _check_exact(n_instances=200, most=9) > 150


@pytest.mark.slow
def test_searches_equal_brute_force_on_a_thousand_instances() -> None:
    assert _check_exact(n_instances=1000, most=12) > 800


def test_searches_equal_exhaustive_for_a_gate_weighted_value() -> None:
    rng = np.random.default_rng(5)
    for k in (2, 6):
        scores, energies = rng.random((10, 6)), rng.random((1, 6)) + 0.1
        limits = Limits(_costs([[0.0] * 6], energies.tolist()), Budgets(energy_j=1.5))
        value = TopValue(scores, k)
        best = exhaustive(value, limits).value
        assert branch_reduce_bound(value, limits).value == pytest.approx(best)
        assert polyblock(value, limits).value == pytest.approx(best)


def test_best_value_never_falls_as_budgets_grow() -> None:
    rng = np.random.default_rng(7)
    scores, energies = rng.random((30, 8)), rng.random((1, 8)) + 0.2
    costs = _costs(rng.random((1, 8)).tolist(), energies.tolist())
    values = [
        branch_reduce_bound(TopValue(scores), Limits(costs, Budgets(energy_j=float(e)))).value
        for e in np.linspace(energies.max(), energies.sum(), 8)
    ]
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_exhaustive_refuses_large_pools() -> None:
    costs = EdgeCosts(tuple(map(str, range(21))), np.zeros((1, 21)), np.zeros((1, 21)))
    with pytest.raises(ConfigError, match="branch_reduce_bound"):
        exhaustive(TopValue(np.ones((1, 21))), Limits(costs, Budgets()))


def test_keep_within_masks_the_gate_to_the_best_set(table: OutcomeTable, encoder: Encoder) -> None:
    scorer = EdgeScorer.fit(table, encoder)
    energies: FloatArray = np.array([[3.0, 1.0, 1.0]])
    costs = EdgeCosts(table.expert_ids, np.ones((1, 3)), energies)
    kept, chosen = keep_within(scorer, table.scores, costs, Budgets(energy_j=2.5))
    assert kept.subset == ("geo", "chem")
    assert chosen.columns == (1, 2)
    assert (kept.score(ASKED)[:, 0] == 0).all()
    swapped = replace(costs, expert_ids=("geo", "calc", "chem"))
    with pytest.raises(PoolMismatch, match="edge costs"):
        keep_within(scorer, table.scores, swapped, Budgets())
