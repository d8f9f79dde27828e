"""Reads the calls of logs, rotated and compressed files included, and counts what is no call."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from criproxy.audit.files.reader import LogLine
from criproxy.timeline.logged_call import LoggedCall, NotAJsonObjectError, parse_line

STDIN: Final = Path("-")
"""The path of the lines of standard input."""

_LONGEST: Final = 64 << 20
"""Bytes of the longest line of standard input; the rest of a longer one is read as further lines.
The audit log's longest records are shorter."""


class CallReader:
    """Parses lines to calls, and counts those that are no JSON objects."""

    def __init__(self, lines: Iterable[LogLine]) -> None:
        self._lines = lines
        self.calls = 0
        """Calls read so far."""
        self.skipped = 0
        """Lines so far that are no JSON objects: torn, or of another program."""
        self.first_skipped: LogLine | None = None
        """The first of these."""

    def __iter__(self) -> Iterator[LoggedCall]:
        """Yield the calls, in the order of the lines. Raises UnavailableError for a bad file."""
        for line in self._lines:
            try:
                call = parse_line(line.text)
            except NotAJsonObjectError:
                if line.text.strip():
                    self.skipped += 1
                    self.first_skipped = self.first_skipped or line
                continue
            if call is not None:
                self.calls += 1
                yield call


def lines_of_stream(stream: BinaryIO) -> Iterator[LogLine]:
    """Yield the lines of a stream, which is standard input, as they come."""
    lines = iter(lambda: stream.readline(_LONGEST), b"")
    for number, text in enumerate(lines, 1):
        yield LogLine(STDIN, number, text)
