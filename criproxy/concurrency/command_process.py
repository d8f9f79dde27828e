"""Starts what runs outside this process and stops it; a command of criproxy as a child process."""

import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import IO, Final, Self

from criproxy.errors import UnavailableError

_STOP_SECONDS: Final = 10.0
"""Time limit for the process to stop before it is killed."""


class Startable(ABC):
    """Runs from entering to leaving the block. It is stopped as well if it does not start."""

    @abstractmethod
    def start(self) -> None:
        """Start it, and return once it serves."""

    @abstractmethod
    def stop(self) -> None:
        """Stop it and wait for it. Idempotent, also after a start that has failed."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class CommandProcess(Startable):
    """``criproxy`` with arguments as a child process, from entering to leaving the block."""

    def __init__(self, *arguments: str) -> None:
        self._command = [sys.executable, "-m", "criproxy", *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process's id while it runs."""
        return self._process.pid if self._process else None

    def stop(self) -> None:
        """See Startable."""
        if (process := self._process) is None:
            return
        process.terminate()
        try:
            process.communicate(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        self._process = None

    def _launch_until_serving(self, name: str) -> None:
        """Launch the process, and return once it has printed a line, which says that it serves.

        Raises UnavailableError, with its stderr, if it ends before; ``name`` is what the user is
        told did not start.
        """
        process = self._launch(subprocess.PIPE, subprocess.PIPE)
        assert process.stdout is not None  # a pipe was asked for
        if not process.stdout.readline():
            _, errors = process.communicate()
            error = errors.decode(errors="replace").strip()
            raise UnavailableError(f"{name} did not start: {error}")

    def _launch(self, stdout: int | IO[bytes], stderr: int | IO[bytes]) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(  # noqa: S603  # our own command
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=Path("/"),
            start_new_session=True,  # so that Ctrl-C in a terminal reaches only the parent
        )
        return self._process
