"""Runs a child process whose output goes to files, and which is always ended."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.support.waiting import LIMIT_SECONDS


class Process:
    """A child process whose stdout and stderr go to files next to each other.

    Use it as a context manager, or call :meth:`start` and then :meth:`stop` or :meth:`kill`. It
    can be started again afterwards; the output is appended.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        output: Path,
        env: Mapping[str, str] | None = None,
        descriptors: Sequence[int] = (),
    ) -> None:
        """Output of ``argv`` goes to ``output`` with the suffixes ``.out`` and ``.err``.

        ``env`` is added to the environment, and ``descriptors`` are inherited.
        """
        self.argv = list(argv)
        self.stdout_path = output.with_suffix(".out")
        self.stderr_path = output.with_suffix(".err")
        self._env = dict(env or {})
        self._descriptors = tuple(descriptors)
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the program; it must not be running."""
        if self.running:
            raise RuntimeError(f"{self.argv[0]} is running already")
        with self.stdout_path.open("ab") as out, self.stderr_path.open("ab") as err:
            self._popen = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=os.environ | self._env,
                pass_fds=self._descriptors,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id of what was started last."""
        if self._popen is None:
            raise RuntimeError(f"{self.argv[0]} was never started")
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        """The exit status, or None while it runs."""
        return None if self._popen is None else self._popen.poll()

    @property
    def stdout(self) -> str:
        """All that it wrote to stdout so far."""
        return _text(self.stdout_path)

    @property
    def stderr(self) -> str:
        """All that it wrote to stderr so far."""
        return _text(self.stderr_path)

    def signal(self, number: int) -> None:
        """Send a signal to it."""
        if self._popen is not None:
            self._popen.send_signal(number)

    def wait(self, limit: float = LIMIT_SECONDS) -> int:
        """Wait for its end and return the exit status; raises TimeoutExpired after ``limit``."""
        if self._popen is None:
            raise RuntimeError(f"{self.argv[0]} was never started")
        return self._popen.wait(limit)

    def stop(self, limit: float = LIMIT_SECONDS) -> int:
        """End it with SIGTERM and return its exit status; kill it after ``limit`` seconds.

        Having to kill it raises TimeoutExpired once it is gone.
        """
        if not self.running:
            return self.wait()
        self.signal(signal.SIGTERM)
        try:
            return self.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """End it and all that it has started with SIGKILL, and wait for its end."""
        if self._popen is not None:
            with contextlib.suppress(ProcessLookupError):  # nothing of it is left
                os.killpg(self._popen.pid, signal.SIGKILL)
            self.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
