"""Computes the figures of a report from a table of calls."""

from collections.abc import Sequence
from heapq import nlargest
from pathlib import Path
from typing import Any, Final

from criproxy import __version__
from criproxy.report.computing.call_table import CallTable
from criproxy.report.computing.slices import Slices, sliced
from criproxy.report.computing.sources import message_sizes, notes_of, source_of, time_text
from criproxy.report.figures import (
    VERSION,
    Caller,
    Comparison,
    Failure,
    HeatCell,
    InFlight,
    Method,
    PodStarts,
    Polling,
    Report,
    SlowCall,
)
from criproxy.timeline.json_form import json_of
from criproxy.timeline.logged_call import LoggedCall
from criproxy.timeline.pod_start import KINDS, PodStart
from criproxy.timeline.pod_starts import PodStarts as FoundStarts
from criproxy.timeline.pod_starts import starts_in

SLICES: Final = 60
"""Time slices of a report, at most."""

MOST: Final = {"slowest": 25, "errors": 50, "callers": 25, "polling": 25, "pod_starts": 20}
"""The most rows of a table."""

_QUANTILES: Final = "quantile_disc(duration, [0.5, 0.95, 0.99]) FILTER (NOT running)"
_TOTAL: Final = "round(sum(duration), 6)"
"""Rounded, because the threads of DuckDB add up in another order each time."""

_MESSAGE: Final = "left(regexp_replace(message, '[0-9a-f]{32,}', '<id>', 'g'), 300)"
"""Messages that differ in ids alone are the same."""

_FAILED: Final = "NOT running AND code <> 'OK'"


def report_of(
    table: CallTable, files: Sequence[Path], comparison: Comparison | None = None
) -> Report:
    """Return the report of a table. Raises UsageError if it has no calls."""
    source = source_of(table, files)
    began, ended = table.row("SELECT min(began), max(ended) FROM calls")
    slices = sliced(began, ended, SLICES)
    return Report(
        version=VERSION,
        criproxy=__version__,
        source=source,
        notes=notes_of(table, source),
        methods=methods(table, source.seconds),
        slice_s=slices.length / 1e6,
        heat_map=heat_map(table, slices),
        in_flight=in_flight(table, slices, ended),
        slowest=slowest(table),
        errors=errors(table),
        sizes=message_sizes(table),
        callers=callers(table, source.seconds),
        polling=polling(table, source.seconds),
        pod_starts=pod_starts(table),
        comparison=comparison,
    )


def methods(table: CallTable, seconds: float) -> list[Method]:
    """Return the figures of each method, that with the most time first."""
    rows = table.rows(
        f"""
        SELECT label, count(*), count(*) FILTER ({_FAILED}), count(*) FILTER (running),
            coalesce({_QUANTILES}, [NULL, NULL, NULL]), max(duration), {_TOTAL} AS total,
            bool_or(endless) AS endless
        FROM calls GROUP BY label ORDER BY endless, total DESC, label
        """  # noqa: S608
    )
    return [
        Method(
            method=label,
            calls=calls,
            errors=errors,
            unended=running,
            per_second=_rate(calls, seconds),
            p50_s=p50,
            p95_s=p95,
            p99_s=p99,
            longest_s=longest,
            total_s=total,
            endless=endless,
        )
        for label, calls, errors, running, (p50, p95, p99), longest, total, endless in rows
    ]


def heat_map(table: CallTable, slices: Slices) -> list[HeatCell]:
    """Return the latency by method and time slice, without endless calls."""
    rows = table.rows(
        f"""
        SELECT label, began // $1 * $1 AS slice, count(*), {_QUANTILES}, max(duration)
        FROM calls WHERE NOT running AND NOT endless GROUP BY label, slice ORDER BY label, slice
        """,  # noqa: S608
        slices.length,
    )
    return [
        HeatCell(label, time_text(began), calls, p50, p95, longest)
        for label, began, calls, (p50, p95, _), longest in rows
    ]


def in_flight(table: CallTable, slices: Slices, ended: int) -> list[InFlight]:
    """Return the most calls in flight at once by time slice, without endless ones.

    A call whose end is not in the log is in flight until ``ended``, the end of the log.
    """
    rows = table.rows(
        """
        WITH changes AS (
            SELECT began AS moment, 1 AS change FROM calls WHERE NOT endless
            UNION ALL
            SELECT CASE WHEN running THEN $2 ELSE ended END, -1 FROM calls WHERE NOT endless),
        sums AS (
            SELECT moment // $1 AS slice, change, sum(change) OVER (
                PARTITION BY moment // $1 ORDER BY moment, change ROWS UNBOUNDED PRECEDING) AS now
            FROM changes)
        SELECT slice, max(now), sum(change) FROM sums GROUP BY slice ORDER BY slice
        """,
        slices.length,
        ended,
    )
    by_slice = {slice_ * slices.length: (most, change) for slice_, most, change in rows}
    before, points = 0, []
    for start in slices.starts():
        most, change = by_slice.get(start, (0, 0))
        points.append(InFlight(time_text(start), int(before + max(most, 0))))
        before += change
    return points


def slowest(table: CallTable) -> list[SlowCall]:
    """Return the calls that took the longest, without endless ones."""
    rows = table.rows(
        f"""
        SELECT began, method, code, duration, executable, node, namespace, pod, container,
            image, held, rules
        FROM calls WHERE NOT endless ORDER BY duration DESC, began LIMIT {MOST["slowest"]}
        """  # noqa: S608
    )
    return [SlowCall(time_text(began), method, code, *rest) for began, method, code, *rest in rows]


def errors(table: CallTable) -> list[Failure]:
    """Return the most frequent errors by method, code and message."""
    rows = table.rows(
        f"""
        SELECT label, code, {_MESSAGE} AS text, count(*) AS calls, min(began), max(began),
            coalesce(min(namespace || '/' || pod) FILTER (pod <> ''), '')
        FROM calls WHERE {_FAILED} GROUP BY label, code, text
        ORDER BY calls DESC, label, code, text LIMIT {MOST["errors"]}
        """  # noqa: S608
    )
    return [
        Failure(method, code, text, calls, time_text(first), time_text(last), example)
        for method, code, text, calls, first, last, example in rows
    ]


def callers(table: CallTable, seconds: float) -> list[Caller]:
    """Return the executables with the most calls."""
    rows = table.rows(
        f"""
        WITH by_method AS (
            SELECT executable, label, count(*) AS calls, count(*) FILTER ({_FAILED}) AS errors,
                count(*) FILTER (NOT reads) AS mutating, {_TOTAL} AS total
            FROM calls GROUP BY executable, label)
        SELECT executable, sum(calls)::BIGINT AS calls, sum(errors)::BIGINT, sum(mutating)::BIGINT,
            round(sum(total), 6), list(label ORDER BY calls DESC, label)[1:5]
        FROM by_method GROUP BY executable ORDER BY calls DESC, executable LIMIT {MOST["callers"]}
        """  # noqa: S608
    )
    return [
        Caller(executable, calls, failed, mutating, _rate(calls, seconds), total, most)
        for executable, calls, failed, mutating, total, most in rows
    ]


def polling(table: CallTable, seconds: float) -> list[Polling]:
    """Return the reading calls by method and executable, the most frequent first."""
    rows = table.rows(
        f"""
        SELECT label, executable, count(*) AS calls, {_TOTAL}, sum(response_bytes)::BIGINT,
            (SELECT count(*) FROM calls)
        FROM calls WHERE reads AND NOT endless GROUP BY label, executable
        ORDER BY calls DESC, label, executable LIMIT {MOST["polling"]}
        """  # noqa: S608
    )
    return [
        Polling(
            method=label,
            executable=executable,
            calls=calls,
            share=calls / of_all,
            per_second=_rate(calls, seconds),
            busy=_rate(total, seconds),
            response_bytes_per_second=None if size is None else _rate(size, seconds),
        )
        for label, executable, calls, total, size, of_all in rows
    ]


def pod_starts(table: CallTable) -> PodStarts:
    """Return the starts of pods, of which the slowest in full."""
    found, states, causes = FoundStarts(), dict[str, int](), dict[str, int]()
    kept: list[PodStart] = []
    rows = table.each(
        f"SELECT {', '.join(_CALL_FIELDS)} FROM calls WHERE label IN "  # noqa: S608
        f"({', '.join('?' * len(KINDS))}) ORDER BY began, ended",
        *KINDS,
    )
    for start in starts_in(map(_logged_call, rows), found):
        states[start.state] = states.get(start.state, 0) + 1
        causes[start.cause.kind] = causes.get(start.cause.kind, 0) + 1
        kept.append(start)
        if len(kept) >= 2 * MOST["pod_starts"]:
            kept = _slowest(kept)
    return PodStarts(
        starts=sum(states.values()),
        states=states,
        causes=causes,
        unnamed=found.unnamed,
        dropped=found.dropped,
        slowest=[json_of(start) for start in _slowest(kept)],
    )


_CALL_FIELDS: Final = (
    *("service", "method", "began", "ended", "running", "code", "message", "listener", "node"),
    *("pid", "executable", "namespace", "pod", "pod_uid", "pod_id", "container", "container_id"),
    *("image", "rules", "held"),
)


def _logged_call(row: Sequence[Any]) -> LoggedCall:
    fields = dict(zip(_CALL_FIELDS, row, strict=True))
    began, ended = fields.pop("began") / 1e6, fields.pop("ended") / 1e6
    return LoggedCall(**fields | {"began": began, "until": ended, "rules": tuple(fields["rules"])})


def _slowest(starts: list[PodStart]) -> list[PodStart]:
    return nlargest(MOST["pod_starts"], starts, key=lambda start: (start.seconds, -start.began))


def _rate(number: float, seconds: float) -> float:
    return number / seconds if seconds > 0 else 0.0
