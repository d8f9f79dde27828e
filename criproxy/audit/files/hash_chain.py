"""The chain: each line carries the hash of the one before, so that what was tampered with shows.

A line is a JSON object without its newline. Linked, it ends in two members more::

    ..., "sequence": 17, "previous": "<the SHA-256 of the whole line before, in hex>"}

The first line ever has sequence 1 and 64 zeros. The chain goes on across restarts and from one file
to the next. A crash can leave a torn line, one that is no whole JSON object; the chain goes on from
the last whole line before it, which is how a torn line differs from one that was tampered with.

What no chain can show by itself: that lines are missing at its end, and that somebody who could
write the file has written everything from some point on anew, hashes and all. Both show when the
last hash (:attr:`Verdict.last`) is kept elsewhere from time to time: it has to be found again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal, NamedTuple

import msgspec

GENESIS: Final = "0" * 64
"""What the first line ever has for the hash of the line before."""

Tampering = Literal["changed", "removed", "reordered", "inserted", "restarted"]


class ChainLink(NamedTuple):
    """Where a chain has got to: its last whole line's sequence and hash."""

    sequence: int
    digest: str


BEGINNING: Final = ChainLink(0, GENESIS)
"""Before the first line ever."""


class _Linked(msgspec.Struct):
    sequence: int | None = None
    previous: str | None = None


_read = msgspec.json.Decoder(_Linked).decode


def link(line: bytes, after: ChainLink) -> tuple[bytes, ChainLink]:
    """Chain a line to the one before; return it as it is to be written, and where that leads."""
    sequence = after.sequence + 1
    comma = b"" if line == b"{}" else b","
    linked = b'%b%b"sequence":%d,"previous":"%b"}' % (
        line[:-1],
        comma,
        sequence,
        after.digest.encode(),
    )
    return linked, ChainLink(sequence, digest(linked))


def digest(line: bytes) -> str:
    """Hash a whole line, without its newline."""
    return sha256(line).hexdigest()


def whole(line: bytes) -> bool:
    """Tell whether a line is a whole record, and not the torn part of one."""
    return _members(line) is not None


def resume(line: bytes) -> ChainLink | None:
    """Say where a chain goes on after this line; None after a torn one.

    A whole line that is in no chain (there was none when it was written) begins one.
    """
    members = _members(line)
    return None if members is None else ChainLink(members.sequence or 0, digest(line))


@dataclass(frozen=True, slots=True)
class ChainBreak:
    """The first place where a chain does not hold."""

    kind: Tampering
    line: int
    """The line it is about, counted from 1 over all lines that were checked."""
    says: str
    """What was found, in a sentence without the line's number."""


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What a check has found."""

    records: int
    """Whole lines, in the chain or before it."""
    torn: tuple[int, ...]
    """Numbers of torn lines, counted from 1."""
    unchained: int
    """Whole lines before the chain begins. Nothing is known of them but for the last."""
    first: str | None
    """The hash that the chain's first line has of the one before it: GENESIS where nothing is
    missing before. None: there is no chain."""
    last: ChainLink | None
    """The last line's sequence and hash, to be kept elsewhere; None without a chain."""
    broken: ChainBreak | None
    """None: the chain holds from its first line to its last."""


class _Seen(NamedTuple):
    number: int
    sequence: int
    previous: str
    digest: str


def check(lines: Iterable[bytes]) -> ChainReport:
    """Check lines in the order in which they were written, across files.

    Each may have its newline. Torn lines and empty ones are no breaks. All lines are read even
    after the first break, one at a time.
    """
    return _Check().run(lines)


class _Check:
    def __init__(self) -> None:
        self._records = 0
        self._torn: list[int] = []
        self._unchained = 0
        self._before: _Seen | None = None  # the line before the last
        self._last: _Seen | None = None
        self._first: str | None = None
        self._digest: str | None = None  # of the last whole line, in the chain or not
        self._break: ChainBreak | None = None
        self._suspect: tuple[_Seen, _Seen] | None = None
        self._missing: tuple[int, str] | None = None  # sequence, and the hash it follows

    def run(self, lines: Iterable[bytes]) -> ChainReport:
        for number, line in enumerate(lines, 1):
            line = line.rstrip(b"\r\n")
            if line:
                self._take(number, line)
        if self._suspect is not None:  # nothing came that could tell which of the two it was
            self._changed(self._suspect[0])
        last = self._last
        return ChainReport(
            records=self._records,
            torn=tuple(self._torn),
            unchained=self._unchained,
            first=self._first,
            last=ChainLink(last.sequence, last.digest) if last else None,
            broken=self._break,
        )

    def _take(self, number: int, line: bytes) -> None:
        members = _members(line)
        if members is None:
            self._torn.append(number)
            return
        self._records += 1
        if members.previous is None or members.sequence is None:
            self._unlinked(number, line)
            return
        seen = _Seen(number, members.sequence, members.previous, digest(line))
        self._settle(seen)
        if self._last is None:
            self._begin(seen)
        elif self._break is not None:
            self._look_for_missing(seen)
        elif seen.previous != self._last.digest:
            self._broken(self._last, seen)
        elif seen.sequence != self._last.sequence + 1:
            self._changed(seen)
        self._before, self._last = self._last, seen

    def _begin(self, seen: _Seen) -> None:
        self._first = seen.previous
        if self._digest is not None and seen.previous != self._digest:
            self._break = ChainBreak(
                "changed", seen.number - 1, "the line before the chain's first is not as it was"
            )

    def _unlinked(self, number: int, line: bytes) -> None:
        if self._last is None:
            self._unchained += 1
            self._digest = digest(line)
        elif self._break is None:
            self._break = ChainBreak(
                "inserted", number, "it carries no hash, where every line before it does"
            )

    def _broken(self, last: _Seen, seen: _Seen) -> None:
        """Say what has happened between two lines that do not follow each other."""
        if seen.previous == GENESIS and seen.sequence == 1:
            self._break = ChainBreak(
                "restarted", seen.number, "a chain begins anew here, as if nothing had been before"
            )
        elif seen.sequence == last.sequence + 1:
            self._suspect = (last, seen)
        elif seen.sequence > last.sequence:
            self._gap(last, seen)
        elif self._before is not None and seen.previous == self._before.digest:
            self._break = ChainBreak(
                "inserted", last.number, "what follows it was written without it"
            )
        else:
            self._break = ChainBreak(
                "reordered",
                seen.number,
                f"its sequence is {seen.sequence}, that of the line before {last.sequence}",
            )

    def _gap(self, last: _Seen, seen: _Seen) -> None:
        missing = range(last.sequence + 1, seen.sequence)
        if len(missing) == 1 and self._torn and self._torn[-1] > last.number:
            self._break = ChainBreak(
                "changed", self._torn[-1], f"it was record {missing[0]} and is none any more"
            )
            return
        self._missing = (missing[0], last.digest)
        gone = (
            f"record {missing[0]}, which was before it, is gone"
            if len(missing) == 1
            else f"records {missing[0]} to {missing[-1]}, which were before it, are gone"
        )
        self._break = ChainBreak("removed", seen.number, gone)

    def _settle(self, seen: _Seen) -> None:
        """Tell which of two consecutive lines was changed, by whether the second has its hash."""
        if self._suspect is None:
            return
        first, second = self._suspect
        self._changed(first if seen.previous == second.digest else second)

    def _changed(self, seen: _Seen) -> None:
        self._suspect = None
        self._break = ChainBreak(
            "changed", seen.number, f"record {seen.sequence} is not as it was written"
        )

    def _look_for_missing(self, seen: _Seen) -> None:
        """A record that turns up later was not removed but moved."""
        if self._break and self._missing == (seen.sequence, seen.previous):
            self._missing = None
            self._break = ChainBreak(
                "reordered",
                self._break.line,
                f"record {seen.sequence} belongs before it and stands further on, "
                f"as line {seen.number}",
            )


def _members(line: bytes) -> _Linked | None:
    try:
        return _read(line)
    except (msgspec.DecodeError, UnicodeDecodeError):  # a ValidationError as well
        return None
