"""One answer for what several workers say of a reload."""

from __future__ import annotations

from coe.assembly.reloading import Reloaded
from coe.service.workers.reloads import Reply, merged

CHANGED = Reloaded("knn/top-1", ("a",), ("new",), ("b",), ())
SAME = Reloaded("knn/top-1", ("a", "b", "new"), (), (), ())


def test_workers_that_agree_say_what_has_changed() -> None:
    assert merged({0: Reply(SAME), 1: Reply(CHANGED)}) == Reply(CHANGED)
    assert Reply(CHANGED).told == "reloaded: knn/top-1; added new; changed b"
    assert Reply(SAME).told == "reloaded: knn/top-1; the same experts"


def test_file_that_no_worker_can_serve_is_told_once() -> None:
    wrong = Reply(problem="experts.yaml: no such key")
    assert merged({0: wrong, 1: wrong}) == wrong
    assert wrong.told == "not reloaded, everything is as it was: experts.yaml: no such key"


def test_worker_that_could_not_is_named() -> None:
    reply = merged({0: Reply(CHANGED), 1: Reply(problem="no room")})
    assert reply == Reply(CHANGED, "worker 1: no room")
    assert reply.told.endswith("changed b; but worker 1: no room")
    assert merged({}).problem == "no worker is there"


def test_reply_crosses_to_another_process() -> None:
    for reply in (Reply(CHANGED), Reply(problem="wrong"), Reply(SAME, "worker 1: wrong")):
        assert Reply.of_json(reply.as_json()) == reply
