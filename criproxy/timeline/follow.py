"""Follows a log file as it is written, across rotation and truncation.

Nothing here is in the way of the writer: a reader that is slow reads a file that is longer.
"""

import os
from pathlib import Path
from typing import Final

from criproxy.errors import UnavailableError

LINGER: Final = 30.0
"""Seconds for which a file is read that was replaced at its path: until they open the new one, the
daemon's processes write to it."""

_MAX_FILES: Final = 4
"""Files that are read at once; above it the oldest is closed."""

_STEP: Final = 1 << 20
"""Bytes that are read of a file at a time."""

_LONGEST: Final = 64 << 20
"""Bytes of the longest line; a longer one is discarded to its end. The audit log's are shorter."""


class LineAssembler:
    """Assembles whole lines from pieces of a file. Pure."""

    def __init__(self, longest: int = _LONGEST) -> None:
        """``longest``: bytes above which a line is discarded."""
        self._longest = longest
        self._partial = bytearray()
        self._discarding = False
        self.discarded = 0
        """Lines that were too long."""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that end in a piece, without their newlines."""
        first, *rest = data.split(b"\n")
        self._add(first)
        lines = []
        for each in rest:
            if not self._discarding:
                lines.append(bytes(self._partial))
            self._partial.clear()
            self._discarding = False
            self._add(each)
        return lines

    def clear(self) -> None:
        """Forget an incomplete line."""
        self._partial.clear()
        self._discarding = False

    def _add(self, data: bytes) -> None:
        if self._discarding:
            return
        if len(self._partial) + len(data) > self._longest:
            self._partial.clear()
            self._discarding = True
            self.discarded += 1
        else:
            self._partial += data


class FollowedLog:
    """The lines that are appended to the file at a path, and to those that take its place."""

    def __init__(self, path: Path, from_start: bool) -> None:
        """Open the file, at its end or its beginning. Raises UnavailableError if it cannot be."""
        self._path = path
        if path.exists() and not path.is_file():
            raise UnavailableError(f"{path}: is no file; pass what is no file as standard input, -")
        try:
            file = _OpenFile(path)
        except OSError as error:
            raise UnavailableError(
                f"{path}: {error.strerror}; name the log that criproxy writes (log.file, or the "
                "path of an audit log's sink)"
            ) from error
        if not from_start:
            file.skip()
        self._files = [file]  # the last one is that at the path

    def read(self, now: float) -> list[bytes]:
        """Return the lines that have been completed since the last call, at most some MiB of them.

        ``now`` is in seconds of any clock. Empty: there is nothing more for the moment.
        """
        self._look_for_successor(now)
        lines = [line for file in self._files for line in file.read()]
        if not lines:
            for file in [each for each in self._files[:-1] if now - each.replaced > LINGER]:
                self._files.remove(file)
                file.close()
        return lines

    @property
    def discarded(self) -> int:
        """Lines of the files that are open that were too long to be read."""
        return sum(file.assembler.discarded for file in self._files)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()
        self._files.clear()

    def _look_for_successor(self, now: float) -> None:
        try:
            status = os.stat(self._path)
        except OSError:  # between the removal of one and the creation of the next
            return
        if (status.st_dev, status.st_ino) == self._files[-1].identity:
            return
        try:
            successor = _OpenFile(self._path)
        except OSError:
            return
        self._files[-1].replaced = now
        self._files.append(successor)
        while len(self._files) > _MAX_FILES:
            self._files.pop(0).close()


class _OpenFile:
    """A file that is read from where the last reading ended."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(self._fd)
        self.identity = status.st_dev, status.st_ino
        self.replaced = 0.0
        """When another took its place."""
        self.assembler = LineAssembler()
        self._position = 0

    def skip(self) -> None:
        """Go on behind the last whole line."""
        size = os.fstat(self._fd).st_size
        position = size
        while position:
            step = min(_STEP, position)
            newline = os.pread(self._fd, step, position - step).rfind(b"\n")
            if newline >= 0:
                self._position = position - step + newline + 1
                return
            position -= step

    def read(self) -> list[bytes]:
        """Return the next whole lines, of at most a step's bytes."""
        if os.fstat(self._fd).st_size < self._position:  # truncated in place (copytruncate)
            self._position = 0
            self.assembler.clear()
        data = os.pread(self._fd, _STEP, self._position)
        self._position += len(data)
        return self.assembler.feed(data) if data else []

    def close(self) -> None:
        os.close(self._fd)
