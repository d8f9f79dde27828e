"""What was read, what it does not tell, and the sizes of messages: common to both reports."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from criproxy.errors import UsageError
from criproxy.report.computing.call_table import CallTable
from criproxy.report.figures import MessageSize, Source
from criproxy.timeline.json_form import text_of_time

LIMIT: Final = 16 << 20
"""Bytes of the largest message that a kubelet receives, and that containerd does."""

_MOST_NODES: Final = 20


def time_text(microseconds: int) -> str:
    """Return a time (microseconds since the epoch) in RFC 3339, in UTC."""
    return text_of_time(microseconds / 1e6)


def source_of(table: CallTable, files: Sequence[Path]) -> Source:
    """Return what a table was read from.

    Raises UsageError if it has no calls, or the same calls twice because its files are logs of both
    kinds.
    """
    calls, audited, began, ended = table.row(
        "SELECT count(*), count(*) FILTER (audit), min(began), max(ended) FROM calls"
    )
    names = ", ".join(map(str, files))
    if not calls:
        raise UsageError(
            f"{names}: no line is about a call; name a call log, an audit log or a cassette"
        )
    if 0 < audited < calls:
        raise UsageError(
            f"{names}: are a call log and an audit log, which have the same calls; name one of them"
        )
    nodes = table.rows(
        f"SELECT DISTINCT node FROM calls WHERE node <> '' ORDER BY node LIMIT {_MOST_NODES}"  # noqa: S608
    )
    return Source(
        files=[str(file) for file in files],
        log="recording" if table.is_recording else "audit log" if audited else "call log",
        calls=calls,
        skipped=table.skipped.lines,
        began=time_text(began),
        ended=time_text(ended),
        seconds=(ended - began) / 1e6,
        nodes=[node for (node,) in nodes],
    )


def notes_of(table: CallTable, source: Source) -> list[str]:
    """Return what a log does not tell, and how it would."""
    notes = []
    reads, named = table.row(
        "SELECT count(*) FILTER (reads AND NOT endless AND code = 'OK'), "
        "count(*) FILTER (pod <> '') FROM calls"
    )
    if not reads and source.log != "recording":
        how = (
            "set log.level: debug, or log.methods to info for @read"
            if source.log == "call log"
            else "record them by the audit policy"
        )
        notes.append(f"No read that ended with OK is in the log, so polling is not seen; {how}.")
    if not named and source.log == "recording":
        notes.append("No call names its pod, so no pod starts are seen: none was recorded.")
    if not named and source.log == "call log":
        notes.append("No call names its pod, so no pod starts are seen; set log.pods: true.")
    if source.skipped:
        notes.append(f"{source.skipped} lines were skipped: they are no JSON.")
    return notes


def message_sizes(table: CallTable) -> list[MessageSize]:
    """Return the sizes of messages by method and direction, nearest to the limit first.

    Methods outside the CRI are left out.
    """
    rows = table.rows(
        """
        WITH messages AS (
            SELECT label, 'request' AS direction, request_messages AS messages,
                request_bytes AS bytes FROM calls WHERE api_version IS NOT NULL
            UNION ALL
            SELECT label, 'response', response_messages, response_bytes
            FROM calls WHERE api_version IS NOT NULL)
        SELECT label, direction, count(*), avg(bytes),
            max(CASE WHEN messages > 1 THEN bytes // messages ELSE bytes END) AS largest,
            bool_or(messages > 1)
        FROM messages WHERE messages > 0 AND bytes IS NOT NULL
        GROUP BY label, direction ORDER BY largest DESC, label, direction
        """
    )
    return [
        MessageSize(method, direction, calls, mean, largest, LIMIT, largest / LIMIT, streamed)
        for method, direction, calls, mean, largest, streamed in rows
    ]
