"""Rows of a dataset of the Hugging Face hub, fetched by the library `datasets`."""

from __future__ import annotations

from pathlib import Path

from coe.errors import DatasetError, install_hint
from coe.eval.benchmarks.reading import Row


def hub_rows(hub_id: str, config: str | None, split: str, fix: str) -> list[Row]:
    """Fetches it, or takes it from the library's cache. Raises `DatasetError` without a network."""
    try:
        import datasets
    except ImportError:
        hint = install_hint("hub")
        raise DatasetError(f"{hub_id}: fetching from the hub needs datasets: {hint}") from None
    try:
        known = datasets.get_dataset_split_names(hub_id, config)
        if split not in known:
            raise DatasetError(f"{hub_id}: has no split {split!r} (it has {', '.join(known)})")
        rows = datasets.load_dataset(hub_id, config, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        # What the library raises for no network, no such dataset and no leave to read it.
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DatasetError(f"{hub_id}: cannot be fetched ({cause}); {fix}") from None
    return [Row(dict(row), Path(hub_id), i) for i, row in enumerate(rows, start=1)]
