"""Becomes the command it is given, which then ends when the process that asked for it dies.

Run as a file by a bare interpreter, so it imports nothing of ours. Linux only.

    python -I -S leash.py PARENT_PID COMMAND...
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    parent, *command = arguments
    # SIGTERM and not SIGKILL: a server that can still act takes its workers along.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit("the process that started this one died at once")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
