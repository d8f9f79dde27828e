"""Compares the calls of a log with those of an earlier one, method by method."""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Final

from criproxy.report.computing.bootstrap import BIN, Interval, SlicedDurations, intervals
from criproxy.report.computing.call_table import CallTable
from criproxy.report.computing.slices import sliced
from criproxy.report.computing.sources import source_of
from criproxy.report.figures import Change, Comparison, ErrorRate

CONFIDENCE: Final = 0.99
"""Of an interval: with 95 %, two of forty methods that did not change would seem to have."""

LEAST_CHANGE: Final = 0.05
"""The share by which a quantile has to change: smaller changes exist and matter to nobody."""

_QUANTILES: Final = {"p50": 0.5, "p95": 0.95}
_SLICES: Final = 50
_SEED: Final = 20261128
"""Makes the same report of the same logs."""

_SHORTEST: Final = 1e-6
"""Seconds; durations are logged in microseconds."""

_COMPARED: Final = "NOT running AND code = 'OK' AND NOT endless"


def compare(before: CallTable, before_files: Sequence[Path], after: CallTable) -> Comparison:
    """Return how the latency and the errors of methods changed between two tables.

    Raises UsageError if the first has no calls.
    """
    source = source_of(before, before_files)
    earlier, later = _measured(before), _measured(after)
    changes = [
        change
        for method in sorted(earlier.keys() & later.keys())
        for change in _changes(method, earlier[method], later[method])
    ]
    order = {"slower": 0, "faster": 1, "same": 2, "too few calls": 3}
    changes.sort(key=lambda each: (order[each.verdict], -max(each.ratio, 1 / each.ratio)))
    return Comparison(
        before=source,
        confidence=CONFIDENCE,
        least_change=LEAST_CHANGE,
        changes=changes,
        error_rates=_error_rates(before, after),
    )


def verdict(ratio: float, interval: Interval | None) -> str:
    """Return what a ratio after / before and its interval say."""
    if interval is None:
        return "too few calls"
    if interval.low > 1 and ratio >= 1 + LEAST_CHANGE:
        return "slower"
    if interval.high < 1 and ratio <= 1 / (1 + LEAST_CHANGE):
        return "faster"
    return "same"


class _Measured:
    """The calls of a method: their number, quantiles (seconds), and durations by slice."""

    def __init__(self, calls: int, quantiles: list[float]) -> None:
        self.calls = calls
        self.quantiles = quantiles
        self.counts: dict[int, dict[int, int]] = {}


def _measured(table: CallTable) -> dict[str, _Measured]:
    quantiles = list(_QUANTILES.values())
    duration = f"greatest(duration, {_SHORTEST})"
    measured = {
        label: _Measured(calls, found)
        for label, calls, found in table.rows(
            f"SELECT label, count(*), quantile_disc({duration}, {quantiles}) "  # noqa: S608
            f"FROM calls WHERE {_COMPARED} GROUP BY label"
        )
    }
    began, ended = table.row("SELECT min(began), max(ended) FROM calls")
    rows = table.rows(
        f"""
        SELECT label, began // $1 AS slice, floor(ln({duration}) / ln({BIN}))::BIGINT AS bin,
            count(*)
        FROM calls WHERE {_COMPARED} GROUP BY label, slice, bin ORDER BY label, slice, bin
        """,  # noqa: S608
        sliced(began, ended, _SLICES).length,
    )
    for label, slice_, bin_, calls in rows:
        measured[label].counts.setdefault(slice_, {})[bin_] = calls
    return measured


def _changes(method: str, before: _Measured, after: _Measured) -> list[Change]:
    found = intervals(
        SlicedDurations(list(before.counts.values())),
        SlicedDurations(list(after.counts.values())),
        list(_QUANTILES.values()),
        CONFIDENCE,
        Random(_SEED),  # noqa: S311
    )
    changes = []
    for number, (name, interval) in enumerate(zip(_QUANTILES, found, strict=True)):
        earlier, later = before.quantiles[number], after.quantiles[number]
        changes.append(
            Change(
                method=method,
                quantile=name,
                before_calls=before.calls,
                after_calls=after.calls,
                before_s=earlier,
                after_s=later,
                ratio=later / earlier,
                low=interval.low if interval else None,
                high=interval.high if interval else None,
                verdict=verdict(later / earlier, interval),
            )
        )
    return changes


def _error_rates(before: CallTable, after: CallTable) -> list[ErrorRate]:
    sql = "SELECT label, avg((code <> 'OK')::INT) FROM calls WHERE NOT running GROUP BY label"
    earlier, later = (dict(table.rows(sql)) for table in (before, after))
    return [
        ErrorRate(method, earlier.get(method), later.get(method))
        for method in sorted(earlier.keys() | later.keys())
        if earlier.get(method) != later.get(method) and (earlier.get(method) or later.get(method))
    ]
