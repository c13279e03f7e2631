"""The KV cache of sequences of unequal length that generate together, padded on the left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class PaddedCache:
    """Keys and values of the rows of a batch. Rows may join and leave between steps.

    Every row ends in the last column; a row of n tokens leaves the columns before its last n
    empty, and the attention mask hides them.
    """

    def __init__(self, network: Any) -> None:
        from transformers import DynamicCache

        self._network = network
        self._cache = DynamicCache(config=network.config)
        self._lengths: list[int] = []

    def prefill(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Reads the rows' prompts; (n_rows, vocabulary) logits of what follows."""
        import torch

        width = max(len(prompt) for prompt in prompts)
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
        self._lengths = [len(prompt) for prompt in prompts]
        before = torch.tensor([[width - length] for length in self._lengths])
        positions = (torch.arange(width)[None, :] - before).clamp(min=0)
        return self._forward(ids, positions)

    def decode(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Reads one token more in every row; (n_rows, vocabulary) logits of what follows."""
        import torch

        positions = torch.tensor(self._lengths)[:, None]
        self._lengths = [length + 1 for length in self._lengths]
        return self._forward(torch.tensor(token_ids)[:, None], positions)

    def join(self, other: PaddedCache) -> None:
        """Takes over the rows of another cache of the same model, after its own rows."""
        import torch

        width = max(self._width, other._width)
        ours, theirs = width - self._width, width - other._width
        for layer, more in zip(self._cache.layers, other._cache.layers, strict=True):
            layer.keys = torch.cat([_pad(layer.keys, ours), _pad(more.keys, theirs)])
            layer.values = torch.cat([_pad(layer.values, ours), _pad(more.values, theirs)])
        self._lengths += other._lengths

    def keep(self, rows: Sequence[int]) -> None:
        """Lets go of all other rows, and of columns that only they filled."""
        import torch

        width = self._width
        self._lengths = [self._lengths[row] for row in rows]
        spare = width - max(self._lengths)
        chosen = torch.tensor(rows, device=self._network.device)
        for layer in self._cache.layers:
            layer.keys = layer.keys[chosen, :, spare:]
            layer.values = layer.values[chosen, :, spare:]

    @property
    def _width(self) -> int:
        return int(self._cache.get_seq_length())

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        import torch

        device = self._network.device
        width = self._width + ids.shape[1]
        padding = torch.tensor([[width - length] for length in self._lengths])
        # Without padding there is nothing to hide, and attention is faster for knowing it.
        mask = torch.arange(width)[None, :] >= padding if padding.any() else None
        output = self._network(
            input_ids=ids.to(device),
            position_ids=positions.to(device),
            attention_mask=None if mask is None else mask.to(device),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits


def is_joinable(network: Any) -> bool:
    """Whether the model keeps plain keys and values in every layer, as `PaddedCache` needs.

    Sliding windows and recurrent layers do not; such a model answers one request at a time.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    layers = DynamicCache(config=network.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def _pad(states: torch.Tensor, columns: int) -> torch.Tensor:
    """Empty columns before the first; `states` is (n_rows, heads, columns, head size)."""
    import torch

    return torch.nn.functional.pad(states, (0, 0, columns, 0)) if columns else states
