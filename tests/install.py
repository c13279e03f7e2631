"""Creates an environment at the repository root for what is kept apart from our own packages.

    python tests/install.py vllm       `.venv-vllm`: a real vLLM for CPUs
    python tests/install.py clients    `.venv-clients`: other people's clients

Does nothing if it is there and made from the same pins by the same Python.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PINS = {
    "vllm": TESTS / "vllm" / "constraints-vllm.txt",
    "clients": TESTS / "conformance" / "constraints-clients.txt",
}
# vLLM also names packages that have no CPU builds; all that it needs here is among the pins.
OPTIONS = {"vllm": ("--no-deps",), "clients": ()}


def install(what: str, venv: Path) -> bool:
    """Whether anything had to be done. Raises `CalledProcessError` if pip fails."""
    stamp = venv / ".installed"
    wanted = hashlib.sha256(PINS[what].read_bytes() + sys.version.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return False
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    pins = ["--requirement", str(PINS[what])]
    subprocess.run([*pip, "--quiet", *OPTIONS[what], *pins], check=True)
    # Last, so that an installation cut short is not taken for a whole one.
    stamp.write_text(wanted)
    return True


def main(arguments: list[str]) -> None:
    if len(arguments) != 1 or arguments[0] not in PINS:
        sys.exit(f"usage: python tests/install.py {{{','.join(PINS)}}}")
    venv = TESTS.parent / f".venv-{arguments[0]}"
    is_new = install(arguments[0], venv)
    sys.stdout.write(f"{venv}: {'installed' if is_new else 'up to date'}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
