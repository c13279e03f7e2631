"""How a trace is shown: the inner experts that fired most, layer by layer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coe.engines.routed_experts import RoutedExperts, Traced

_SHOWN = 4
_CELL = 9
_SIDE = _SHOWN * _CELL


def table(expert_id: str, traced: Traced) -> str:
    """At most 80 columns: a row for each layer, the inner experts that most tokens went to.

    A token goes to several, so the shares of a row add up to more than 100 %.
    """
    n_layers, top_k = traced.routed_experts.chosen.shape[1:]
    sides = (traced.completion, traced.prompt)
    titles = (_title("answer", sides[0]), _title("prompt", sides[1]))
    lines = [
        f"inner experts of {expert_id}: {n_layers} layers of {traced.n_experts}, "
        f"{top_k} for each token",
        f"layer  {titles[0]:<{_SIDE}} {titles[1]}",
    ]
    shown = [_rows(side, traced.n_experts) for side in sides]
    lines += [
        f"{layer:>5}  {answer:<{_SIDE}} {prompt}".rstrip()
        for layer, (answer, prompt) in enumerate(zip(*shown, strict=True))
    ]
    return "\n".join(lines)


def as_json(expert_id: str, traced: Traced) -> str:
    """Counts are (layers, inner experts): how many tokens each was chosen for."""
    sides = {"completion": traced.completion, "prompt": traced.prompt}
    told: dict[str, object] = {
        "expert": expert_id,
        "text": traced.text,
        "prompt_tokens": traced.usage.prompt_tokens,
        "completion_tokens": traced.usage.completion_tokens,
        "n_experts": traced.n_experts,
        "top_k": traced.routed_experts.chosen.shape[2],
        "n_passes": {name: len(side.chosen) for name, side in sides.items()},
        "counts": {name: side.counts(traced.n_experts).tolist() for name, side in sides.items()},
    }
    return json.dumps(told, ensure_ascii=False)


def _title(name: str, side: RoutedExperts) -> str:
    return f"{name}, share of {len(side.chosen)} tokens"


def _rows(side: RoutedExperts, n_experts: int) -> list[str]:
    n_tokens = len(side.chosen)
    rows = []
    for counts in side.counts(n_experts):
        best = [int(at) for at in (-counts).argsort(kind="stable")[:_SHOWN] if counts[at]]
        rows.append("".join(f"{at:>3} {counts[at] / n_tokens:>4.0%} " for at in best).rstrip())
    return rows
