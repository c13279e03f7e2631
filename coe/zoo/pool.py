"""The default pool as a file: one template, rendered for this repository and for `coe init`."""

from __future__ import annotations

import shutil
from pathlib import Path

from coe.errors import ConfigError

ZOO = Path(__file__).parent
_PARTS = ("weights", "router")
_OUTCOMES = "outcomes.parquet"


def render_pool(zoo: str) -> str:
    """The text of `experts.yaml`; `zoo` is the zoo's folder as seen from that file."""
    template = (ZOO / "experts.template.yaml").read_text(encoding="utf-8")
    return template.replace("{zoo}", zoo)


def write_pool(folder: Path, force: bool = False) -> Path:
    """Writes `experts.yaml` and the `zoo` it names into a folder, and returns the file.

    Raises `ConfigError` if either is already there, unless `force` says to replace them.
    """
    file = folder / "experts.yaml"
    zoo = folder / "zoo"
    for path in (file, zoo):
        if path.exists() and not force:
            raise ConfigError(
                "is already there; pass --force to replace experts.yaml and zoo/, which holds the "
                "fitted router too",
                file=str(path),
            )
    zoo.mkdir(parents=True, exist_ok=True)
    for part in _PARTS:
        shutil.copytree(ZOO / part, zoo / part, dirs_exist_ok=True)
    shutil.copy2(ZOO / _OUTCOMES, zoo / _OUTCOMES)
    fresh = file.with_suffix(".yaml.new")
    fresh.write_text(render_pool("zoo"), encoding="utf-8")
    fresh.replace(file)
    return file
