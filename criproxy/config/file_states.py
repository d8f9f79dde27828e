"""The files that a configuration was read from, as they were when they were read."""

from collections.abc import Iterator
from pathlib import Path

_Mark = tuple[int, int, int, int] | None


class FileStates:
    """Files and directories, each with what told it from others just before it was read."""

    def __init__(self) -> None:
        self._marks: dict[Path, _Mark] = {}

    def __iter__(self) -> Iterator[Path]:
        return iter(self._marks)

    def note(self, path: Path) -> None:
        """Take in a file or directory that is to be read now, or to be looked for."""
        self._marks.setdefault(path, _mark(path))

    def changed(self) -> bool:
        """Tell whether any of them is another one by now, or has another content, or is gone."""
        return any(_mark(path) != mark for path, mark in self._marks.items())

    def directories(self) -> set[Path]:
        """Return where a change of the files shows: a link's own directory and its target's."""
        around = {place for path in self._marks for place in (path.parent, path.resolve().parent)}
        around.update(path for path in self._marks if path.is_dir())
        return {directory for directory in around if directory.is_dir()}


def _mark(path: Path) -> _Mark:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
