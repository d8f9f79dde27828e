"""Reads a cassette in a bounded amount of memory, also one that is damaged or cut off."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import msgspec

from criproxy.cassette.blocks import (
    HEADER_SIZE,
    LARGEST_MEMBER,
    MAGIC,
    DamagedBlockError,
    parse_header,
    records_in,
)
from criproxy.cassette.records import VERSION, AnyRecord, Began, CassetteError, decode
from criproxy.errors import UnavailableError, UsageError

_FIRST_CHUNK: Final = 4 << 10
_LARGEST_CHUNK: Final = 1 << 20
"""Bytes that are read at once while a block is looked for: few at first, because the next block may
be near, and there may be as many as fit into the file."""


def is_cassette(path: Path) -> bool:
    """Return whether a file begins as a cassette does, of any version."""
    try:
        with path.open("rb") as file:
            return parse_header(file.read(HEADER_SIZE)) is not None
    except OSError:  # whoever reads it says so
        return False


class Place(NamedTuple):
    """Where a record is."""

    position: int
    """The byte of the file at which its block begins."""
    number: int
    """Its number among the records of the block, from 0."""


class Damage:
    """What of a cassette could not be read."""

    def __init__(self) -> None:
        self.blocks = 0
        """Blocks that are damaged."""
        self.bytes = 0
        """Bytes of the file in them, between blocks, and behind the last one."""
        self.records = 0
        """Records of an unknown kind, or not as their kind should be."""
        self.first: int | None = None
        """The byte of the file at which the first damage begins."""

    def skip(self, position: int, size: int, blocks: int = 0) -> None:
        """Count bytes that were skipped."""
        self.bytes += size
        self.blocks += blocks
        if self.first is None:
            self.first = position

    def describe(self, path: Path) -> list[str]:
        """Return lines for a user that say what was skipped."""
        lines = []
        if self.first is not None:
            lines.append(
                f"{path}: byte {self.first}: damaged or cut off there; {self.bytes} bytes skipped"
            )
        if self.records:
            lines.append(f"{path}: {self.records} records of an unknown kind skipped")
        return lines


class CassetteReader:
    """Reads the records of a file in order, or those of one block; a context manager.

    One block is in memory at a time. What cannot be read is skipped and counted in ``damage``.
    """

    def __init__(self, path: Path) -> None:
        """Open a cassette and read its first record.

        Raises CassetteError for a file that is no cassette or one of a newer version, UsageError
        for a missing file, and UnavailableError for one that cannot be read.
        """
        self.path = path
        self.damage = Damage()
        try:
            self._file = path.open("rb")
        except FileNotFoundError:
            raise UsageError(f"{path}: no such file; name a cassette of criproxy record") from None
        except OSError as error:
            raise UnavailableError(f"{path}: cannot be read: {error.strerror}") from error
        try:
            self.began = self._first_record()
        except BaseException:
            self._file.close()
            raise

    def __iter__(self) -> Iterator[AnyRecord]:
        """Yield all records from the first, after which ``damage`` is complete."""
        for _, record in self.placed():
            yield record

    def placed(self) -> Iterator[tuple[Place, AnyRecord]]:
        """Yield all records from the first, each with its place."""
        self.damage = Damage()
        position = 0
        while True:
            block = self._read(position, HEADER_SIZE)
            header = parse_header(block)
            if header is None or not HEADER_SIZE < header.size <= LARGEST_MEMBER:
                found = self._find_block(position + 1) if block else position
                if found > position:
                    self.damage.skip(position, found - position)
                if found >= self.size:
                    return
                position = found
                continue
            self._check_version(position, header.version)
            try:
                if position + header.size > self.size:
                    raise DamagedBlockError("it is cut off, or its length is wrong")
                records = records_in(self._read(position, header.size))
            except DamagedBlockError:
                follows = self._read(position + header.size, len(MAGIC))
                size = header.size
                if follows != MAGIC:  # the file ends there, or the length is damaged, too
                    size = self._find_block(position + 1) - position
                self.damage.skip(position, size, blocks=1)
                position += size
                continue
            for index, data in enumerate(records):
                record = self._decode(data)
                if record is not None:
                    yield Place(position, index), record
            position += header.size

    def records_at(self, position: int) -> dict[int, AnyRecord]:
        """Return the records of the block at a position that :meth:`placed` has given, by index.

        Raises CassetteError if there is none any more.
        """
        header = parse_header(self._read(position, HEADER_SIZE))
        try:
            if header is None:
                raise DamagedBlockError("there is no block")
            records = enumerate(records_in(self._read(position, header.size)))
        except DamagedBlockError as error:
            raise CassetteError(f"{self.path}: byte {position}: {error}; was it changed?") from None
        decoded = ((index, self._decode(data)) for index, data in records)
        return {index: record for index, record in decoded if record is not None}

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._file.seek(0, 2)

    def _first_record(self) -> Began:
        begin = self._read(0, HEADER_SIZE)
        header = parse_header(begin)
        if header is None:
            what = "is no cassette" if begin else "is empty, and no cassette"
            raise CassetteError(
                f"{self.path}: byte 0: {what}; name a file that criproxy record has written"
            )
        self._check_version(0, header.version)
        for place, record in self.placed():
            if isinstance(record, Began):
                return record
            raise CassetteError(
                f"{self.path}: byte {place.position}: the first record does not begin a cassette; "
                "its beginning is lost"
            )
        raise CassetteError(f"{self.path}: byte 0: the first block is cut off; record it anew")

    def _check_version(self, position: int, version: int) -> None:
        if version > VERSION:
            raise CassetteError(
                f"{self.path}: byte {position}: is a cassette of version {version}, and this "
                f"criproxy reads version {VERSION}; use a newer criproxy"
            )

    def _decode(self, data: bytes) -> AnyRecord | None:
        try:
            return decode(data)
        except msgspec.DecodeError:
            self.damage.records += 1
            return None

    def _find_block(self, position: int) -> int:
        """Return the position of the next block's header, or the end of the file."""
        size = _FIRST_CHUNK
        while chunk := self._read(position, size):
            found = chunk.find(MAGIC)
            if found >= 0:
                return position + found
            if len(chunk) < size:
                return position + len(chunk)
            position += len(chunk) - len(MAGIC) + 1
            size = min(2 * size, _LARGEST_CHUNK)
        return position

    def _read(self, position: int, size: int) -> bytes:
        try:
            self._file.seek(position)
            return self._file.read(size)
        except OSError as error:
            raise UnavailableError(
                f"{self.path}: byte {position}: cannot be read: {error.strerror}"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
