"""Creates `.venv-clients` at the repository root: other people's clients, apart from our packages.

Does nothing if it is there and made from the same pins by the same Python.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
CONSTRAINTS = FOLDER / "constraints-clients.txt"
VENV = FOLDER.parent.parent / ".venv-clients"


def install(venv: Path = VENV) -> bool:
    """Whether anything had to be done. Raises `CalledProcessError` if pip fails."""
    stamp = venv / ".installed"
    wanted = hashlib.sha256(CONSTRAINTS.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return False
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    subprocess.run([*pip, "--quiet", "--requirement", str(CONSTRAINTS)], check=True)
    # Last, so that an installation cut short is not taken for a whole one.
    stamp.write_text(wanted)
    return True


if __name__ == "__main__":
    sys.stdout.write(f"{VENV}: {'installed' if install() else 'up to date'}\n")
