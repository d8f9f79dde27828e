"""The figures of a report, computed from all lines of a log in memory, without SQL."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from criproxy.cri.methods import ENDLESS, METHODS, READS

Line = dict[str, Any]
EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def label(line: Line) -> str:
    known = METHODS.get(f"/{line['service']}/{line['method']}")
    return known.name if known else "other"


def microseconds(text: str) -> int:
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)


def began(line: Line) -> int:
    return microseconds(line["began"])


def ended(line: Line) -> int:
    return began(line) + round(line["duration_s"] * 1e6)


def is_endless(line: Line) -> bool:
    return label(line).encode() in ENDLESS


def by_label(lines: Iterable[Line]) -> dict[str, list[Line]]:
    found = defaultdict(list)
    for line in lines:
        found[label(line)].append(line)
    return found


def rank(quantile: float, values: Iterable[float]) -> float:
    """The value at the nearest rank."""
    ordered = sorted(values)
    return ordered[max(math.ceil(quantile * len(ordered)), 1) - 1]


def durations(lines: Iterable[Line]) -> list[float]:
    return [line["duration_s"] for line in lines]


def seconds(lines: Sequence[Line]) -> float:
    """The time from the first beginning to the last end."""
    return (max(map(ended, lines)) - min(map(began, lines))) / 1e6


def methods(lines: Sequence[Line]) -> dict[str, tuple[float, ...]]:
    """Calls, errors, p50, p95, p99, longest and rate by method."""
    return {
        name: (
            len(calls),
            sum(call["code"] != "OK" for call in calls),
            *(rank(each, durations(calls)) for each in (0.5, 0.95, 0.99)),
            max(durations(calls)),
            len(calls) / seconds(lines),
        )
        for name, calls in by_label(lines).items()
    }


def heat_map(lines: Iterable[Line], length: int) -> dict[tuple[str, int], tuple[float, ...]]:
    """Calls, p50, p95 and longest by method and beginning of a slice of ``length`` microseconds."""
    cells = defaultdict(list)
    for line in lines:
        if not is_endless(line):
            cells[label(line), began(line) // length * length].append(line["duration_s"])
    return {
        cell: (len(each), rank(0.5, each), rank(0.95, each), max(each))
        for cell, each in cells.items()
    }


def spans(lines: Iterable[Line]) -> list[tuple[int, int]]:
    """The beginnings and ends of calls."""
    return [(began(line), ended(line)) for line in lines if not is_endless(line)]


def most_in_flight(calls: Sequence[tuple[int, int]], start: int, stop: int) -> int:
    """The most calls that were in flight at once between two times."""
    moments = {start} | {at for at, _ in calls if start <= at < stop}
    return max(sum(a <= moment < b for a, b in calls) for moment in moments)


def errors(lines: Iterable[Line]) -> Counter[tuple[str, str]]:
    return Counter((label(line), line["code"]) for line in lines if line["code"] != "OK")


def callers(lines: Iterable[Line]) -> dict[str, tuple[int, int, int]]:
    """Calls, errors and mutating calls by executable."""
    found: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        found[line["executable"] or ""].append(line)
    return {
        name: (
            len(calls),
            sum(call["code"] != "OK" for call in calls),
            sum(label(call) not in READS for call in calls),
        )
        for name, calls in found.items()
    }


def polling(lines: Sequence[Line]) -> dict[tuple[str, str], tuple[float, ...]]:
    """Calls, and of these how many were in flight on average, by method and executable."""
    found: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in lines:
        if label(line) in READS and not is_endless(line):
            found[label(line), line["executable"] or ""].append(line)
    return {
        key: (len(calls), sum(durations(calls)) / seconds(lines)) for key, calls in found.items()
    }


def sizes(lines: Iterable[Line]) -> dict[tuple[str, str], tuple[int, int]]:
    """Calls with messages, and the largest message, by method and direction."""
    found = defaultdict(list)
    for line in lines:
        for direction in ("request", "response"):
            messages = line[f"{direction}_messages"]
            if messages and label(line) != "other":
                found[label(line), direction].append(line[f"{direction}_bytes"] // messages)
    return {key: (len(each), max(each)) for key, each in found.items()}
