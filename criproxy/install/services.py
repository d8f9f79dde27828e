"""Calls systemctl: the only way to services, by one command that can be replaced."""

import subprocess
from collections.abc import Sequence
from typing import Final

from criproxy.errors import UnavailableError

_SECONDS: Final = 180.0
"""Limit of one call: units may take TimeoutStartSec, 90 s by default, to stop and to start."""


class Systemd:
    """The service manager of a tree, called as ``command``, which is ``systemctl`` on a node."""

    def __init__(self, command: Sequence[str] = ("systemctl",)) -> None:
        self._command = tuple(command)

    def call(self, *words: str) -> str:
        """Call it with these words and return its output. Raises UnavailableError if it fails."""
        return _run([*self._command, *words])

    def call_beside(self, program: str, *words: str) -> str:
        """Call a program of the tree, by what comes before ``systemctl`` in the command."""
        return _run([*self._command[:-1], program, *words])

    def main_pid(self, unit: str) -> int:
        """Return the main process of a service; 0 if it does not run. Raises UnavailableError."""
        text = self.call("show", "--property=MainPID", "--value", unit).strip()
        return int(text) if text.isdecimal() else 0


def _run(command: Sequence[str]) -> str:
    shown = " ".join(command)
    try:
        # In a session of its own: Ctrl-C is for criproxy, which undoes what it has begun.
        done = subprocess.run(  # noqa: S603  # what the user named
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise UnavailableError(
            f"{command[0]}: no such command; services are started by systemd alone"
        ) from None
    except OSError as error:
        raise UnavailableError(f"{shown}: {error.strerror or error}") from error
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{shown}: not done within {_SECONDS:g} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        why = lines[0] if lines else f"exit status {done.returncode}"
        raise UnavailableError(f"{shown}: {why}")
    return done.stdout
