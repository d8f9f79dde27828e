"""Writes a cassette."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from criproxy.cassette.blocks import RecordBlocks
from criproxy.cassette.records import AnyRecord
from criproxy.cassette.ring import Ring
from criproxy.common.output_file import create
from criproxy.errors import UnavailableError

_EXISTS: Final = "exists; choose another file, or overwrite it with --force"
"""What is said of a file that is not to be replaced."""


class CassetteWriter:
    """Writes records to a file: :meth:`write` each of them, then :meth:`close`.

    Records are collected in blocks, which :meth:`flush` writes early. What was flushed can be read,
    whatever becomes of the writer.
    """

    def __init__(self, path: Path, *, replace: bool = False) -> None:
        """Create the file. Raises UsageError if there is one, unless it is to ``replace``, and
        UnavailableError if it cannot be created.
        """
        self.path = path
        self.size = 0
        """Bytes that have been written."""
        self._ring: Ring | None = None
        self._blocks = RecordBlocks(self._add)
        try:
            self._file = os.fdopen(create(path, _EXISTS, replace=replace), "wb", buffering=0)
        except OSError as error:
            raise UnavailableError(f"{path}: cannot be created: {error.strerror}") from error

    @property
    def pending(self) -> int:
        """Bytes of records that are not in a block yet."""
        return self._blocks.pending

    def write(self, record: AnyRecord) -> bool:
        """Add a record. Returns False for one that is too large for a cassette.

        Raises UnavailableError if a block cannot be written.
        """
        return self._blocks.write(record)

    def flush(self) -> None:
        """Write the records so far as a block. Raises UnavailableError."""
        self._blocks.flush()

    def keep(self, ring: Ring) -> None:
        """Flush, and keep the blocks that follow in a ring until :meth:`release`."""
        self.flush()
        self._ring = ring

    def release(self) -> None:
        """Write what the ring has, and from now on all that follows. Raises UnavailableError."""
        self.flush()
        ring, self._ring = self._ring, None
        if ring is not None:
            for block in ring.blocks():
                self.write_block(block)

    def write_block(self, block: bytes) -> None:
        """Write a block that others have completed. Raises UnavailableError."""
        left = memoryview(block)
        try:
            while left:
                written = self._file.write(left)
                self.size += written
                left = left[written:]
        except OSError as error:
            raise UnavailableError(f"{self.path}: cannot be written: {error.strerror}") from error

    def _add(self, block: bytes) -> None:
        if self._ring is None:
            self.write_block(block)
        else:
            self._ring.add(block)

    def close(self) -> None:
        """Release what is kept, flush, and close the file. Raises UnavailableError."""
        try:
            self.release()
        finally:
            self._file.close()

    def discard(self) -> None:
        """Close the file, and remove it."""
        self._file.close()
        with suppress(OSError):
            self.path.unlink()
