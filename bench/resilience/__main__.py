"""What a gateway does when its experts fail, when too much is asked, and when it is told to go.

    python -m bench.resilience                       every scene, to bench/results/resilience.json
    python -m bench.resilience --only hang,overload  these scenes' rows alone are new
    python -m bench.resilience --only hang --quick   a look, not a measurement

Every scene has a gateway of its own, `coe serve` as a user runs it, before experts' servers that
fail on command. Clients ask on schedule however late the answers are.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import uvloop

from bench.resilience.failures import Row
from bench.resilience.scenes import scenes
from bench.serving import ROOT


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", help="scenes, separated by commas")
    options.add_argument("--quick", action="store_true", help="a look, not a measurement")
    options.add_argument("--out", type=Path, default=ROOT / "bench/results/resilience.json")
    chosen = options.parse_args()
    known = scenes(chosen.quick)
    names = chosen.only.split(",") if chosen.only else list(known)
    if unknown := set(names) - set(known):
        options.error(f"no scene {', '.join(unknown)}; there are {', '.join(known)}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            place = Path(folder) / name
            place.mkdir()
            rows.append(uvloop.run(known[name](place)))
            print(json.dumps(rows[-1]), flush=True)
    if not chosen.quick:
        told = _told(rows, chosen.only, chosen.out)
        chosen.out.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _told(rows: list[Row], only: str | None, file: Path) -> dict[str, object]:
    """All rows; of a run of some scenes, in the place of those that the file has of them."""
    command = "python -m bench.resilience"
    if only is None or not file.exists():
        return {"command": command, "python": sys.version.split()[0], "rows": rows}
    told: dict[str, object] = json.loads(file.read_text(encoding="utf-8"))
    new = {row["scene"]: {**row, "command": f"{command} --only {only}"} for row in rows}
    before: list[Row] = told["rows"]  # type: ignore[assignment]
    return {**told, "rows": [new.get(row["scene"], row) for row in before]}


if __name__ == "__main__":
    main()
