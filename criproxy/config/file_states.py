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
        return any(_state(path) != state for path, state in self._states.items())

    def directories(self) -> set[Path]:
        """Return the directories to watch: of a symbolic link, its own and its target's."""
        around = {each for path in self._states for each in (path.parent, path.resolve().parent)}
        around.update(path for path in self._states if path.is_dir())
        return {directory for directory in around if directory.is_dir()}


def _state(path: Path) -> _State:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
