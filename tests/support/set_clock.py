"""A system's clock that a test can set, for a process and those that it starts."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from tests.support.customized import customized

_FILE = "TEST_CLOCK"


class SetClock:
    """The clock, of which :attr:`env` is given to the process."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "clock"
        self.set(0)
        code = "from tests.support.set_clock import install; install()"
        self.env: Mapping[str, str] = {
            _FILE: str(self._file),
            **customized(directory, code),
        }

    def set(self, seconds: int) -> None:
        """Set the clock to so many seconds before or behind the time."""
        new = self._file.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self._file)


def install() -> None:
    """Have this process read the clock that is set; its monotonic clocks are the machine's."""
    file = Path(os.environ[_FILE])
    time_ns = time.time_ns

    def read() -> int:
        return time_ns() + int(file.read_text()) * 1_000_000_000

    setattr(time, "time_ns", read)  # noqa: B010
    setattr(time, "time", lambda: read() / 1e9)  # noqa: B010
