"""Links each line of an audit log to the previous one by its hash, and checks such chains.

A line is a JSON object without its newline. A chained line has two more members at its end::

    ..., "sequence": 17, "previous": "<SHA-256 of the previous line in hex>"}

The first line has sequence 1 and 64 zeros. The chain continues across restarts and from one file to
the next. A crash can leave a torn line, which is not a complete JSON object; the chain continues
from the last whole line before it, which distinguishes a torn line from a changed one.

A chain alone cannot show that lines are missing at its end, nor that somebody with write access
has rewritten everything from some line on with new hashes. Both show if the last hash
(:attr:`ChainReport.last`) was stored elsewhere and is not found any more.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal, NamedTuple

import msgspec

GENESIS: Final = "0" * 64
"""The previous hash of the first line."""

Tampering = Literal["changed", "removed", "reordered", "inserted", "restarted"]


class ChainLink(NamedTuple):
    """The sequence number and hash of a chain's last whole line."""

    sequence: int
    digest: str


START: Final = ChainLink(0, GENESIS)
"""The link before the first line."""


class _Linked(msgspec.Struct):
    sequence: int | None = None
    previous: str | None = None


_read = msgspec.json.Decoder(_Linked).decode


def link(line: bytes, after: ChainLink) -> tuple[bytes, ChainLink]:
    """Link a line to the previous one; return the line to write and its own link."""
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
    """Return the SHA-256 of a line without its newline, in hex."""
    return sha256(line).hexdigest()


def link_after(line: bytes) -> ChainLink | None:
    """Return the link of a line; None for a torn one. An unchained line begins a chain."""
    members = _members(line)
    return None if members is None else ChainLink(members.sequence or 0, digest(line))


@dataclass(frozen=True, slots=True)
class ChainBreak:
    """The first line at which a chain does not hold."""

    kind: Tampering
    line: int
    """The line's number, counted from 1 over all checked lines."""
    message: str
    """A description without the line's number."""


@dataclass(frozen=True, slots=True)
class ChainReport:
    """The result of a check."""

    records: int
    """The number of whole lines, chained or not."""
    torn: tuple[int, ...]
    """Numbers of torn lines, counted from 1."""
    unchained: int
    """The number of whole lines before the chain begins. Only the last of them is verified."""
    first: str | None
    """The previous hash of the chain's first line: GENESIS if nothing is missing before it. None:
    there is no chain."""
    last: ChainLink | None
    """The last line's sequence and hash; None without a chain."""
    broken: ChainBreak | None
    """The first break; None: the chain holds."""


class _ChainedLine(NamedTuple):
    number: int
    sequence: int
    previous: str
    digest: str


def check(lines: Iterable[bytes]) -> ChainReport:
    """Check lines in the order in which they were written, across files.

    Lines may end in newlines. Torn and empty lines are no breaks. All lines are read, one at a
    time, even after the first break.
    """
    return _Check().run(lines)


class _Check:
    def __init__(self) -> None:
        self._records = 0
        self._torn: list[int] = []
        self._unchained = 0
        self._before: _ChainedLine | None = None  # the line before the last
        self._last: _ChainedLine | None = None
        self._first: str | None = None
        self._digest: str | None = None  # of the last whole line, in the chain or not
        self._break: ChainBreak | None = None
        self._suspect: tuple[_ChainedLine, _ChainedLine] | None = None
        self._missing: tuple[int, str] | None = None  # sequence, and the hash it follows

    def run(self, lines: Iterable[bytes]) -> ChainReport:
        for number, line in enumerate(lines, 1):
            line = line.rstrip(b"\r\n")
            if line:
                self._add(number, line)
        if self._suspect is not None:  # no further line shows which of the two was changed
            self._report_changed(self._suspect[0])
        last = self._last
        return ChainReport(
            records=self._records,
            torn=tuple(self._torn),
            unchained=self._unchained,
            first=self._first,
            last=ChainLink(last.sequence, last.digest) if last else None,
            broken=self._break,
        )

    def _add(self, number: int, line: bytes) -> None:
        members = _members(line)
        if members is None:
            self._torn.append(number)
            return
        self._records += 1
        if members.previous is None or members.sequence is None:
            self._unlinked(number, line)
            return
        seen = _ChainedLine(number, members.sequence, members.previous, digest(line))
        self._resolve_suspect(seen)
        if self._last is None:
            self._begin(seen)
        elif self._break is not None:
            self._look_for_missing(seen)
        elif seen.previous != self._last.digest:
            self._classify_break(self._last, seen)
        elif seen.sequence != self._last.sequence + 1:
            self._report_changed(seen)
        self._before, self._last = self._last, seen

    def _begin(self, seen: _ChainedLine) -> None:
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

    def _classify_break(self, last: _ChainedLine, seen: _ChainedLine) -> None:
        """Determine what happened between two lines that do not follow each other."""
        if seen.previous == GENESIS and seen.sequence == 1:
            self._break = ChainBreak(
                "restarted", seen.number, "a chain begins anew here, as if nothing had been before"
            )
        elif seen.sequence == last.sequence + 1:
            self._suspect = (last, seen)
        elif seen.sequence > last.sequence:
            self._classify_gap(last, seen)
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

    def _classify_gap(self, last: _ChainedLine, seen: _ChainedLine) -> None:
        # No range: its length has to fit a C integer, and a sequence in a file may be any number.
        first_gone, last_gone = last.sequence + 1, seen.sequence - 1
        if first_gone == last_gone and self._torn and self._torn[-1] > last.number:
            self._break = ChainBreak(
                "changed", self._torn[-1], f"it was record {first_gone} and is none any more"
            )
            return
        self._missing = (first_gone, last.digest)
        gone = (
            f"record {first_gone}, which was before it, is gone"
            if first_gone == last_gone
            else f"records {first_gone} to {last_gone}, which were before it, are gone"
        )
        self._break = ChainBreak("removed", seen.number, gone)

    def _resolve_suspect(self, seen: _ChainedLine) -> None:
        """Determine which of two lines was changed: whether the next line has the second's hash."""
        if self._suspect is None:
            return
        first, second = self._suspect
        self._report_changed(first if seen.previous == second.digest else second)

    def _report_changed(self, seen: _ChainedLine) -> None:
        self._suspect = None
        self._break = ChainBreak(
            "changed", seen.number, f"record {seen.sequence} is not as it was written"
        )

    def _look_for_missing(self, seen: _ChainedLine) -> None:
        """Report a missing record that appears later as moved instead of removed."""
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
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
