"""Other gateways from the package index, each in a throw-away environment of its own.

Only wheels are installed, so that nothing of theirs runs before it is started, and what is
started gets no environment but the one in `bench.gateway.processes`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# On the index for some hours, with a credential stealer inside (MAL-2026-2144).
_NEVER = {("litellm", "1.82.7"), ("litellm", "1.82.8")}
_SHOWN_CHARS = 300


class CannotInstall(Exception):
    """In the words of whoever could not."""


@dataclass(frozen=True, slots=True)
class Peer:
    """What is installed."""

    requirement: str
    unbound: frozenset[str] = frozenset()
    """Requirements of it whose version bounds are dropped where an index does not meet them."""


PEERS = {
    # Root certificates, its database's migrations, what needs a licence: a mirror may lack the
    # newest, and no request here comes near them.
    "litellm": Peer(
        "litellm[proxy]==1.109.*",
        frozenset({"certifi", "litellm-proxy-extras", "litellm-enterprise"}),
    ),
    "smg": Peer("smg==1.13.*"),
    "vllm-router": Peer("vllm-router==0.1.17"),
}


@dataclass(frozen=True, slots=True)
class Installed:
    """A peer's environment, and what proves which code was measured."""

    folder: Path
    pin: dict[str, Any] = field(default_factory=dict)

    def script(self, name: str) -> str:
        return str(self.folder / "bin" / name)


def install(name: str, folder: Path) -> Installed:
    """The peer, installed into the folder unless it is there already. Raises `CannotInstall`."""
    peer, record = PEERS[name], folder / "pin.json"
    if record.exists():
        return Installed(folder, json.loads(record.read_text()))
    venv.create(folder, with_pip=True, clear=True)
    dropped: list[str] = []
    try:
        archives = _pip(folder, peer.requirement)
    except CannotInstall:
        if not peer.unbound:
            raise
        archives = _pip(folder, "--no-deps", peer.requirement)
        needed, dropped = _needed(folder, peer)
        archives |= _pip(folder, *needed)
    pin = _pin(Requirement(peer.requirement).name, archives, dropped)
    record.write_text(json.dumps(pin))
    return Installed(folder, pin)


def _pip(folder: Path, *wanted: str) -> dict[tuple[str, str], str]:
    """Installs; the SHA-256 of every archive by its name and version."""
    report = folder / "report.json"
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, "--report", str(report), *wanted], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise CannotInstall(" ".join(errors)[-_SHOWN_CHARS:] or f"pip ended with {done.returncode}")
    archives: dict[tuple[str, str], str] = {}
    for item in json.loads(report.read_text())["install"]:
        known = (canonicalize_name(item["metadata"]["name"]), item["metadata"]["version"])
        archives[known] = item["download_info"]["archive_info"]["hashes"]["sha256"]
    if _NEVER & archives.keys():
        raise CannotInstall("the index gave a version that is known to steal credentials")
    return archives


def _needed(folder: Path, peer: Peer) -> tuple[list[str], list[str]]:
    """What an installed peer needs, and the bounds that were dropped from it."""
    wanted = Requirement(peer.requirement)
    (place,) = (folder / "lib").glob("python*/site-packages")
    found = (d for d in distributions(path=[str(place)]) if d.name == wanted.name)
    needed, dropped = [], []
    extras = [{"extra": extra} for extra in ("", *wanted.extras)]
    for line in next(found).requires or ():
        requirement = Requirement(line)
        if requirement.marker and not any(requirement.marker.evaluate(one) for one in extras):
            continue
        requirement.marker = None
        if requirement.name in peer.unbound:
            dropped.append(str(requirement))
            needed.append(requirement.name)
        else:
            needed.append(str(requirement))
    return needed, dropped


def _pin(name: str, archives: dict[tuple[str, str], str], dropped: list[str]) -> dict[str, Any]:
    """Versions and hashes; `environment_sha256` is that of all archives, sorted by name."""
    (main,) = (known for known in archives if known[0] == canonicalize_name(name))
    lines = sorted(f"{one}=={version} {digest}" for (one, version), digest in archives.items())
    return {
        "name": name,
        "version": main[1],
        "sha256": archives[main],
        "environment_packages": len(lines),
        "environment_sha256": sha256("\n".join(lines).encode()).hexdigest(),
        "bounds_dropped": dropped,
        "python": sys.version.split()[0],
    }
