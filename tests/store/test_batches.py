"""Batches: states that only go forward, each on the disk before the next."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from coe.errors import RequestError
from coe.store.batches import (
    STATES,
    STEPS,
    UNFINISHED,
    Batches,
    BatchOver,
    BatchState,
    StoredBatch,
    UnknownBatch,
    window_s,
)
from coe.store.database import Database

URL = "/v1/chat/completions"
PATHS: dict[BatchState, tuple[BatchState, ...]] = {
    "validating": (),
    "in_progress": ("in_progress",),
    "finalizing": ("in_progress", "finalizing"),
    "cancelling": ("in_progress", "cancelling"),
    "completed": ("in_progress", "finalizing", "completed"),
    "failed": ("failed",),
    "cancelled": ("cancelling", "cancelled"),
    "expired": ("in_progress", "expired"),
}


@pytest.fixture
def batches(database: Database, clock: SimpleNamespace) -> Batches:
    return Batches(database, lambda: clock.now_s)


async def _in_state(batches: Batches, state: BatchState) -> StoredBatch:
    batch = await batches.create("acme", "file-1", URL)
    for step in PATHS[state]:
        batch = await batches.move(batch.id, step)
    assert batch.state == state
    return batch


async def test_batch_goes_its_way(batches: Batches, clock: SimpleNamespace) -> None:
    made = await batches.create("acme", "file-1", URL, "24h", {"team": "ä"})
    assert made.expires_s == made.created_s + 86_400
    clock.now_s += 1
    await batches.move(made.id, "in_progress")
    batches.count(made.id, 10, 7, 2)
    clock.now_s += 1
    await batches.move(made.id, "finalizing")
    clock.now_s += 1
    done = await batches.move(made.id, "completed", output_file_id="file-2", error_file_id="file-3")
    assert done == await batches.get("acme", made.id)
    begin = made.created_s
    assert done.times == {
        "validating": begin,
        "in_progress": begin + 1,
        "finalizing": begin + 2,
        "completed": begin + 3,
    }
    assert (done.n_total, done.n_completed, done.n_failed) == (10, 7, 2)
    assert (done.output_file_id, done.error_file_id) == ("file-2", "file-3")
    assert done.metadata == {"team": "ä"}
    assert done.is_over


async def test_failed_batch_says_why(batches: Batches) -> None:
    made = await batches.create("acme", "file-1", URL)
    why = {"code": "invalid_json_line", "line": 3, "message": "not JSON", "param": None}
    failed = await batches.move(made.id, "failed", errors=[why])
    assert failed.errors == (why,)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("step", STATES)
async def test_only_steps_forward_are_taken(
    batches: Batches, state: BatchState, step: BatchState
) -> None:
    batch = await _in_state(batches, state)
    if step == state:
        assert await batches.move(batch.id, step) == batch  # was taken before a crash
    elif step in STEPS[state]:
        assert (await batches.move(batch.id, step)).state == step
    else:
        with pytest.raises(BatchOver, match=f"is {state} and cannot become {step}"):
            await batches.move(batch.id, step)
        assert await batches.get("acme", batch.id) == batch


async def test_unfinished_batches_are_there_after_a_crash(tmp_path: Path) -> None:
    database = Database(tmp_path / "store.db")
    batches = Batches(database)
    made = [await _in_state(batches, state) for state in STATES]
    copied = tmp_path / "after the crash"
    copied.mkdir()
    for file in tmp_path.glob("store.db*"):  # as a kill leaves them: nothing is closed
        (copied / file.name).write_bytes(file.read_bytes())
    after = Database(copied / "store.db")
    found = await Batches(after).unfinished()
    assert [batch.id for batch in found] == [b.id for b in made if b.state in UNFINISHED]
    after.close()
    database.close()


async def test_other_tenant_sees_no_batch(batches: Batches) -> None:
    made = await batches.create("acme", "file-1", URL)
    with pytest.raises(UnknownBatch):
        await batches.get("other", made.id)
    assert await batches.all("other") == ()
    with pytest.raises(UnknownBatch):
        await batches.all("other", after=made.id)
    with pytest.raises(UnknownBatch):
        await batches.move("batch_0", "failed")


async def test_batches_are_listed_in_pages(batches: Batches, clock: SimpleNamespace) -> None:
    made = []
    for n in range(7):
        clock.now_s += n % 2  # two of a second
        made.append((await batches.create("acme", "file-1", URL)).id)
    listed: list[str] = []
    after = None
    while page := await batches.all("acme", limit=3, after=after):
        listed += [batch.id for batch in page]
        after = page[-1].id
    assert sorted(listed) == sorted(made)
    assert listed[0] in made[-2:]


@pytest.mark.parametrize(("window", "seconds"), [("1h", 3600), ("24h", 86_400), ("7d", 604_800)])
def test_window_is_hours_or_days(window: str, seconds: float) -> None:
    assert window_s(window) == seconds


@pytest.mark.parametrize("window", ["", "24", "h", "0h", "1.5h", "24h ", "-1h", "24m", "9999d"])
def test_other_windows_are_refused(window: str) -> None:
    with pytest.raises(RequestError, match="completion_window"):
        window_s(window)
