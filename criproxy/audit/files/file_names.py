"""Recognizes the files of audit logs by their names, and orders them as they were written.

Beside the files that criproxy rotates there are those that logrotate renames: ``audit.jsonl.2.gz``
(the higher the number, the older), ``audit.jsonl-20261123`` (``dateext``), and with ``extension
.jsonl`` ``audit.2.jsonl`` and ``audit-20261123.jsonl``.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from criproxy.audit.files.rotation import rotated_from

_AGE: Final = r"(?:\.(?P<number>\d{1,6})|-(?P<date>\d{8}[\d_T:-]*|\d{4}-\d\d-\d\d[\d_T:-]*))"
_COMPRESSION: Final = r"(?P<compression>\.(?:gz|bz2|xz|zst))?"
_LOGROTATE: Final = (
    re.compile(rf"(?P<name>.+){_AGE}{_COMPRESSION}"),
    re.compile(rf"(?P<name>.+){_AGE}(?P<extension>\.jsonl){_COMPRESSION}"),
)


class LogFile(NamedTuple):
    """A file of an audit log."""

    log: Path
    """The log's current file."""
    order: tuple[int, int, str]
    """Sorts the files of a log in the order in which they were written."""
    preferred: bool
    """Whether it is the whole one where a file is there both plain and compressed."""


_CURRENT: Final = (3, 0, "")


def log_file(path: Path) -> LogFile:
    """Return which log a file belongs to. An unknown name is that of a log."""
    if (rotated := rotated_from(path)) is not None:
        log, file = rotated
        return LogFile(log, (2, file.number, ""), file.compressed)
    for pattern in _LOGROTATE:
        if found := pattern.fullmatch(path.name):
            parts = found.groupdict()
            log = path.with_name(parts["name"] + parts.get("extension", ""))
            plain = parts["compression"] is None  # logrotate removes it when the other is whole
            if parts["number"] is not None:
                return LogFile(log, (1, -int(parts["number"]), ""), plain)
            digits = "".join(filter(str.isdigit, parts["date"]))
            return LogFile(log, (0, 0, digits), plain)
    return LogFile(path, _CURRENT, True)


def is_current(path: Path) -> bool:
    """Return whether a file's name is that of a log, rather than of a rotated file."""
    return log_file(path).order == _CURRENT


def in_write_order(paths: Iterable[Path]) -> list[Path]:
    """Sort files in the order in which they were written, the current file of each log last.

    Logs without other files come first, in the given order. A file that is there both plain and
    compressed is returned once.
    """
    groups: dict[Path, dict[tuple[int, int, str], tuple[LogFile, Path]]] = {}
    for path in paths:
        file = log_file(path)
        group = groups.setdefault(file.log, {})
        if file.preferred or file.order not in group:
            group[file.order] = (file, path)
    alone = [group for group in groups.values() if list(group) == [_CURRENT]]
    ordered = [*alone, *(group for group in groups.values() if group not in alone)]
    return [group[order][1] for group in ordered for order in sorted(group)]
