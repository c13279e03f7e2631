"""How much of batches and their files a gateway takes on."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """Bounds of one tenant's files and batches, and of what runs at once."""

    max_file_bytes: int = 200 * MIB
    max_files: int = 10_000
    max_files_bytes: int = 10 * 1024 * MIB
    """Of all files of a tenant, those that batches wrote among them."""
    output_lifetime_s: float | None = 30 * 86400.0
    """How long what a batch writes is kept, where its client does not say; None: for good."""
    max_requests: int = 50_000
    """Of one batch."""
    max_unfinished: int = 100
    """Batches of a tenant that are not over."""
    max_running: int = 4
    """Batches that are worked on at once; the others wait for their turn."""
    in_flight: int = 64
    """Requests of a batch that wait for or are with the same experts. All of its experts
    together have twice as many."""
