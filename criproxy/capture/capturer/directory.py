"""The cassettes in the directory of captures: as many, and as large together, as may be."""

import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG
from typing import Final

from criproxy.errors import UnavailableError

_MODE: Final = 0o700

_NAME: Final = re.compile(r"capture-\d{8}T\d{6}\.\d{6}Z\.cassette")
"""The names of the files that may be removed: no others."""


class CassetteDirectory:
    """Names new cassettes, and removes the oldest for them."""

    def __init__(self, path: Path, files: int, total: int) -> None:
        """``total`` is in bytes of all cassettes. Raises UnavailableError if the directory is
        missing and cannot be created."""
        self.removed = 0
        """Cassettes that were removed."""
        self._path = path
        self._files = files
        self._total = total
        try:
            path.mkdir(mode=_MODE, parents=True, exist_ok=True)
        except OSError as error:
            raise UnavailableError(
                f"capture.directory: {path}: cannot be created: {error.strerror}; name another"
            ) from error

    def make_room(self, now: float, size: int) -> Path:
        """Return the path of a new cassette of ``size`` bytes at most, after the oldest that are
        too many or too large together were removed.

        ``now`` is in seconds since the epoch. Raises UnavailableError if they cannot be.
        """
        try:
            kept = list(self._cassettes())
            total = sum(size for _, size in kept)
            while kept and (len(kept) >= self._files or total + size > self._total):
                oldest, of_oldest = kept.pop(0)
                with suppress(FileNotFoundError):
                    oldest.unlink()
                    self.removed += 1
                total -= of_oldest
        except OSError as error:
            raise UnavailableError(
                f"{error.filename}: cannot be read or removed: {error.strerror}"
            ) from error
        moment = datetime.fromtimestamp(now, UTC)
        return self._path / f"capture-{moment:%Y%m%dT%H%M%S.%f}Z.cassette"

    def _cassettes(self) -> Iterator[tuple[Path, int]]:
        """Yield the cassettes, the oldest first, with their sizes. Raises OSError.

        One that another daemon removes meanwhile is none; nor is what only has such a name.
        """
        for each in sorted(self._path.iterdir()):
            if _NAME.fullmatch(each.name):
                with suppress(FileNotFoundError):
                    status = each.lstat()
                    if S_ISREG(status.st_mode):
                        yield each, status.st_size
