"""A few steps of training write a directory that loads, and the loss falls."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from coe.zoo.recipes import RECIPES

pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture
def _one_thread() -> Iterator[None]:
    # On a busy machine several threads wait for each other far longer than they compute.
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("_one_thread")
def test_a_short_training_lowers_the_loss_and_saves_a_loadable_model(tmp_path: Path) -> None:
    from coe.zoo.evaluate import complete, load_expert
    from coe.zoo.tokenizer import save_tokenizer
    from coe.zoo.train import _save_model, train

    recipe = replace(RECIPES["chemistry"], steps=12, batch=16, warmup=2, layers=2)
    model, losses = train(recipe)
    assert len(losses) == 12
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    _save_model(model, tmp_path)
    save_tokenizer(tmp_path)
    loaded, tokenizer = load_expert(tmp_path)
    assert len(complete(loaded, tokenizer, ["symbol of iron", "element 3"])) == 2


@pytest.mark.slow
def test_orthogonal_brings_singular_values_near_one() -> None:
    import torch

    from coe.zoo.optim import orthogonal

    stack = torch.randn(3, 16, 40, generator=torch.Generator().manual_seed(0))
    for matrices in (stack, stack.mT.contiguous()):
        values = torch.linalg.svdvals(orthogonal(matrices))
        assert values.min() > 0.5
        assert values.max() < 1.5
