"""Runs the embedded runtime as a child process, so that it does not share this one's GIL."""

import subprocess
import sys
from pathlib import Path
from typing import Final, Self

from criproxy.errors import UnavailableError
from criproxy.relay.endpoints import Endpoint

STOP_SECONDS: Final = 10.0
"""Time limit for the process to stop before it is killed."""


class RuntimeProcess:
    """``criproxy runtime`` as a child process, from entering to leaving the ``with`` block.

    ``latency`` and ``pods`` are as on its command line. Raises UnavailableError on entering,
    with the process's stderr, when it does not start.
    """

    def __init__(self, endpoint: str | Endpoint, latency: str = "real", pods: int = 0) -> None:
        self.endpoint = str(endpoint)
        self._command = [sys.executable, "-m", "criproxy", "runtime", "--listen", self.endpoint]
        self._command += ["--latency", latency, "--pods", str(pods)]
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int | None:
        """The process's id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process and return once it listens."""
        process = subprocess.Popen(  # noqa: S603  # our own command
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path("/"),
            start_new_session=True,  # so that Ctrl-C in a terminal reaches only the parent
        )
        assert process.stdout is not None  # a pipe was asked for
        if not process.stdout.readline():
            _, errors = process.communicate()
            raise UnavailableError(f"the embedded runtime did not start: {errors.strip()}")
        self._process = process

    def stop(self) -> None:
        """Stop the process and wait for it. Idempotent."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.communicate(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
