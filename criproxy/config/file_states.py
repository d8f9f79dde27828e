"""The files that a configuration was read from, with their state at that time."""

from collections.abc import Iterator
from pathlib import Path

_State = tuple[int, int, int, int] | None
"""Device, inode, modification time in nanoseconds and size; None for a missing file."""


class FileStates:
    """Files and directories, each with its state just before it was read."""

    def __init__(self) -> None:
        self._states: dict[Path, _State] = {}

    def __iter__(self) -> Iterator[Path]:
        return iter(self._states)

    def add(self, path: Path) -> None:
        """Record the state of a file or directory, which may be missing, before it is read."""
        self._states.setdefault(path, _state(path))

    def changed(self) -> bool:
        """Return whether any file has been replaced, modified, created or removed."""
        return self.current() != list(self._states.values())

    def current(self) -> list[_State]:
        """Return the states that the files have now."""
        return [_state(path) for path in self._states]


def _state(path: Path) -> _State:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
