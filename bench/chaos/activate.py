"""Executes a command as systemd does with socket activation (sd_listen_fds(3)).

``python -m bench.chaos.activate DESCRIPTORS COMMAND...``: the descriptors, separated by commas,
become 3, 4 and so on.
"""

import os
import sys
from typing import Final

FIRST: Final = 3


def main() -> None:
    """Pass the descriptors on and execute the command."""
    descriptors = [int(each) for each in sys.argv[1].split(",")]
    # Out of the way first: a source must not be overwritten before it is moved.
    moved = [os.dup2(each, 100 + at, inheritable=True) for at, each in enumerate(descriptors)]
    for at, each in enumerate(moved):
        os.dup2(each, FIRST + at, inheritable=True)
        os.close(each)
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(moved))}
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
