"""Trains one expert from scratch: python -m coe.zoo.train NAME [--out DIR] [--steps N]."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import defaultdict
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from coe.zoo import EXPERTS, model_dir
from coe.zoo.corpus import Batch, batches
from coe.zoo.evaluate import accuracy_by_field
from coe.zoo.model import build_model
from coe.zoo.optim import Muon
from coe.zoo.questions import ZooQuestion, zoo_questions
from coe.zoo.recipes import RECIPES, Recipe
from coe.zoo.tokenizer import answer_ids, prompt_ids, save_tokenizer

__all__ = ["main", "train", "train_and_save"]

_REPORT_EVERY = 50
_CHECK_EVERY = 200
_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors")


def train(recipe: Recipe) -> tuple[PreTrainedModel, list[float]]:
    """Train a recipe's model; return it with its loss at each step."""
    model = build_model(recipe).train()
    matrices = [p for name, p in model.named_parameters() if _is_inner(name, p)]
    inner = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in inner]
    muon = Muon(matrices, recipe.weight_decay)
    adam = torch.optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=0.0)
    losses: list[float] = []
    began = time.monotonic()
    stream = batches(recipe.mixture, recipe.seed, recipe.batch, recipe.wide)
    for step in range(recipe.steps):
        share = _rate(step, recipe)
        loss = _loss(model, next(stream), recipe)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        muon.step(recipe.muon_lr * share)
        for group in adam.param_groups:
            group["lr"] = recipe.adam_lr * share
        adam.step()
        adam.zero_grad(set_to_none=True)
        losses.append(loss.item())
        _report(model, losses, recipe, time.monotonic() - began)
    return model, losses


def _is_inner(name: str, parameter: torch.nn.Parameter) -> bool:
    """Tell the matrices that Muon trains from embeddings, norms and the expert gate."""
    return parameter.ndim >= 2 and "embed" not in name and "mlp.gate." not in name


def _rate(step: int, recipe: Recipe) -> float:
    """Return the share of the peak rate due at a step: a linear rise, then a cosine fall."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def _loss(model: PreTrainedModel, batch: Batch, recipe: Recipe) -> torch.Tensor:
    """Return the mean loss on the answers' tokens, and for experts the balancing loss."""
    ids, labels = torch.tensor(batch.ids), torch.tensor(batch.labels)
    # Right padding needs no mask under causal attention: no label lies behind it. The sparse
    # model keeps float32, where its many small products are faster on a CPU.
    with torch.autocast("cpu", torch.bfloat16, enabled=not recipe.experts):
        out = model(
            input_ids=ids,
            use_cache=False,
            **({"output_router_logits": True} if recipe.experts else {}),
        )
    loss = cross_entropy(out.logits.float().flatten(0, 1), labels.flatten())
    return loss + recipe.aux_loss * out.aux_loss if recipe.experts else loss


def _report(model: PreTrainedModel, losses: list[float], recipe: Recipe, spent: float) -> None:
    """Write a progress line now and then, at times with the accuracy on the test questions."""
    step = len(losses)
    if step % _REPORT_EVERY:
        return
    recent = sum(losses[-_REPORT_EVERY:]) / _REPORT_EVERY
    line = f"{recipe.name} step {step}/{recipe.steps} loss {recent:.4f} {spent:.0f}s"
    if step % _CHECK_EVERY == 0:
        line += f" {_teacher_forced(model, recipe)}"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@torch.inference_mode()
def _teacher_forced(model: PreTrainedModel, recipe: Recipe) -> dict[str, float]:
    """Return each skill's share of test answers whose every token is the likeliest one.

    It equals greedy generation's accuracy up to rounding, in one pass instead of many.
    """
    fields = {field for field, _ in recipe.mixture}
    groups: dict[tuple[int, int], list[ZooQuestion]] = defaultdict(list)
    for question in zoo_questions("test"):
        if question.field in fields:
            sizes = len(prompt_ids(question.text)), len(answer_ids(question.answer))
            groups[sizes].append(question)
    right: dict[str, list[bool]] = defaultdict(list)
    for (_, size), questions in groups.items():
        rows = torch.tensor([prompt_ids(q.text) + answer_ids(q.answer) for q in questions])
        best = model(input_ids=rows[:, :-1], use_cache=False).logits[:, -size:].argmax(-1)
        for question, good in zip(questions, (best == rows[:, -size:]).all(1), strict=True):
            right[question.skill].append(bool(good))
            right[question.field].append(bool(good))
    return {name: round(sum(marks) / len(marks), 3) for name, marks in sorted(right.items())}


def train_and_save(recipe: Recipe, out: Path) -> dict[str, object]:
    """Train a recipe, save the model directory in bfloat16, and return its training record."""
    model, losses = train(recipe)
    out.mkdir(parents=True, exist_ok=True)
    _save_model(model, out)
    save_tokenizer(out)
    record: dict[str, object] = {
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in model.parameters()),
        "final_loss": round(sum(losses[-20:]) / len(losses[-20:]), 5),
        "test_accuracy": accuracy_by_field(out, zoo_questions("test")),
        "packages": {name: version(name).split("+")[0] for name in _PACKAGES},
    }
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def _save_model(model: PreTrainedModel, out: Path) -> None:
    """Write config and bfloat16 weights, readable by all, under the names servers look for."""
    model.to(torch.bfloat16).save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    file = out / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    if "num_local_experts" in config:
        # One transformers release writes this name, the others and most servers read that one.
        config["num_experts"] = config["num_local_experts"]
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 0 when the model has been trained and saved."""
    parser = argparse.ArgumentParser(prog="python -m coe.zoo.train", description=__doc__)
    parser.add_argument("name", choices=EXPERTS)
    parser.add_argument("--out", type=Path, help="directory to write (default: the zoo's own)")
    parser.add_argument("--steps", type=int, help="steps in place of the recipe's")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    recipe = RECIPES[options.name]
    if options.steps:
        recipe = replace(recipe, steps=options.steps)
    record = train_and_save(recipe, options.out or model_dir(options.name))
    sys.stdout.write(json.dumps(record["test_accuracy"]) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
