"""A gateway killed in the middle of a batch, and started again."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import openai
import orjson
import pytest

POOL = """
experts:
  - id: a
    engine: {kind: scripted, default: RUN, tokens_per_s: SPEED}
    footprint: {gib: 1}
  - id: b
    engine: {kind: scripted, default: RUN, tokens_per_s: SPEED}
    footprint: {gib: 1}
local_memory_gib: 1
router: {scorer: random}
"""
N_REQUESTS = 600
CHAT: Final = "/v1/chat/completions"
_URL = re.compile(r"ready at (http://\S+)")


class Served:
    """`coe serve` as a process of its own."""

    def __init__(self, folder: Path, run: str, tokens_per_s: float) -> None:
        pool = folder / "experts.yaml"
        pool.write_text(POOL.replace("RUN", run).replace("SPEED", str(tokens_per_s)), "utf-8")
        command = [sys.executable, "-m", "coe.cli", "serve", "-c", str(pool), "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder)
        self.said: list[str] = []
        self._is_ready = threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        assert self._is_ready.wait(60), self.said
        found = _URL.search("".join(self.said))
        assert found is not None, self.said
        self.url = found[1]

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if _URL.search(line):
                self._is_ready.set()
        self._is_ready.set()

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        code = self.process.wait(30)
        self._listener.join(30)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@contextmanager
def _client(url: str) -> Iterator[openai.OpenAI]:
    with (
        openai.DefaultHttpxClient(trust_env=False) as http,
        openai.OpenAI(base_url=url, api_key="none", max_retries=0, http_client=http) as client,
    ):
        yield client


def _until(look: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 60
    while not look():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def _input() -> io.BytesIO:
    lines = []
    for i in range(N_REQUESTS):
        body = {"model": "coe", "messages": [{"role": "user", "content": f"question {i}"}]}
        lines.append({"custom_id": f"r{i}", "method": "POST", "url": CHAT, "body": body})
    return io.BytesIO(b"\n".join(map(orjson.dumps, lines)))


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_batch_of_a_gateway_that_ended_is_gone_on_with(tmp_path: Path, how: int) -> None:
    served = Served(tmp_path, "before", 4.0)
    try:
        with _client(served.url) as ai:
            file = ai.files.create(file=("in.jsonl", _input()), purpose="batch")
            batch = ai.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")

            def has_some() -> bool:
                counts = ai.batches.retrieve(batch.id).request_counts
                return counts is not None and counts.completed > 150

            _until(has_some)
    finally:
        served.end(how)
    (journal,) = (tmp_path / ".coe" / "store" / "batches").glob("*/.*.journal")
    lines = journal.read_bytes().splitlines(keepends=True)[1:]
    kept = {orjson.loads(line)["custom_id"] for line in lines if line.endswith(b"\n")}
    again = Served(tmp_path, "after", 0.0)
    try:
        with _client(again.url) as ai:
            _until(lambda: ai.batches.retrieve(batch.id).status == "completed")
            over: Any = ai.batches.retrieve(batch.id)
            content = ai.files.content(over.output_file_id).content
    finally:
        assert again.end(signal.SIGTERM) in (0, -signal.SIGTERM)
    assert over.request_counts.completed == N_REQUESTS
    answers = [orjson.loads(line) for line in content.splitlines()]
    assert [answer["custom_id"] for answer in answers] == [f"r{i}" for i in range(N_REQUESTS)]
    texts = [a["response"]["body"]["choices"][0]["message"]["content"] for a in answers]
    before = {f"r{i}" for i, text in enumerate(texts) if text == "before"}
    assert before == kept
    assert 150 < len(before) < N_REQUESTS
    assert "Traceback" not in "".join(served.said + again.said)
