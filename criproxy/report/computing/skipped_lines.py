"""Finds the first line of a log that is no JSON object, to name it."""

from pathlib import Path

from criproxy.audit.files.reader import lines_of
from criproxy.timeline.logged_call import NotAJsonObjectError, parse_line


def first_skipped(file: Path) -> int | None:
    """Return the number of the first line that is no JSON object, counted from 1; or None.

    Whole lines of logs begin and end with braces, so only others are parsed: this reads a file as
    fast as lines can be told apart.
    """
    for line in lines_of([file]):
        text = line.text.strip()
        if not text or (text.startswith(b"{") and text.endswith(b"}")):
            continue
        try:
            parse_line(text)
        except NotAJsonObjectError:
            return line.number
    return None
