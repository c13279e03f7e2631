from __future__ import annotations

import re
from pathlib import Path

import pytest

from coe.eval.datasets import load_outcomes

pytest.importorskip("pyarrow")

_POOL = """
experts:
  - id: geography
    engine: {kind: scripted, answers: {Peru: Lima}}
"""


def test_code_on_the_data_page_writes_tables_that_are_read(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (repository / "docs" / "data.md").read_text("utf-8")
    by_hand, live = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("experts.yaml").write_text(_POOL, encoding="utf-8")
    exec(by_hand, {})
    table = load_outcomes(Path("outcomes.parquet"), "train")
    assert table.expert_ids == ("arithmetic", "geography")
    assert table.scores.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    exec(live, {})
    assert load_outcomes(Path("outcomes.parquet"), "train").column("geography").tolist() == [1.0]
