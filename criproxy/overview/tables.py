"""The tables of ``criproxy top`` and of the page: their columns, orders and cells. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from criproxy.common.printable import printable
from criproxy.timeline.pod_start import format_seconds

Fields = Mapping[str, Any]

SLOW_MARK: Final = "!"
"""Stands in the row of a call that counts as slow, where colours do not tell."""


@dataclass(frozen=True)
class Column:
    """A column: its header, the cell's text, and what rows are ordered by."""

    name: str
    text: Callable[[Fields], str]
    order: Callable[[Fields], Any]
    descending: bool = False


@dataclass(frozen=True)
class Table:
    """A table of the objects under a key of the figures.

    ``key`` identifies a row over time, ``style`` is as for click.style. The first column's order is
    that of the table, unless another is chosen.
    """

    name: str
    source: str
    columns: Sequence[Column]
    key: Callable[[Fields], str]
    style: Callable[[Fields], dict[str, Any]]

    def rows(
        self, found: Fields, wanted: str = "", by: Column | None = None
    ) -> list[tuple[Fields, tuple[str, ...]]]:
        """Return the objects with their cells, in order; ``wanted`` is a text in one of these."""
        rows = [(each, self.cells(each)) for each in self.ordered(found, by)]
        wanted = wanted.casefold()
        return [each for each in rows if any(wanted in cell.casefold() for cell in each[1])]

    def ordered(self, found: Fields, by: Column | None = None) -> list[Fields]:
        """Return the objects in order."""
        column = by or self.columns[0]
        return sorted(found[self.source], key=column.order, reverse=column.descending)

    def cells(self, fields: Fields) -> tuple[str, ...]:
        """Return the texts of a row."""
        return tuple(column.text(fields) for column in self.columns)


def table(each: Table, found: Fields) -> tuple[list[tuple[str, ...]], list[dict[str, Any]]]:
    """Return the rows of a table with its header, and their styles."""
    rows = each.rows(found)
    header = tuple(column.name for column in each.columns)
    styles = [{"bold": True}, *(each.style(fields) for fields, _ in rows)]
    return [header, *(cells for _, cells in rows)], styles


def summary(found: Fields) -> str:
    """Return a line about all of it."""
    calls, methods = found["calls"], found["methods"]
    slow = sum(call["slow"] for call in calls)
    rate, errors = (sum(each[name] for each in methods) for name in ("rate", "error_rate"))
    text = (
        f"{_number(len(calls), 'call')} in flight, {slow} slow; {_rate(rate)}/s, "
        f"{_rate(errors)} errors/s in {format_seconds(found['window_s'])}; "
        f"{_number(len(found['pods']), 'pod')} starting"
    )
    problem = found["runtime_problem"]
    return f"{text}; {printable(problem)}" if problem else text


def describe(fields: Fields, most: int | None = None) -> list[tuple[str, str]]:
    """Return all fields of a call or a pod with their texts, those of lists one below the other.

    ``most``: so many at most.
    """
    return list(islice(_described("", fields), most))


def _described(prefix: str, value: Any) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _described(f"{prefix}.{name}" if prefix else name, each)
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        for number, each in enumerate(value, 1):
            yield from _described(f"{prefix} {number}", each)
    elif isinstance(value, list):
        yield prefix, printable(", ".join(map(str, value))) or "-"
    else:
        yield prefix, "-" if value in (None, "") else printable(str(value))


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _rate(rate: float) -> str:
    return f"{rate:.1f}" if rate >= 0.05 or not rate else f"{rate:.3f}"


def _seconds(seconds: float | None) -> str:
    """Return a duration as text, with a tenth of a millisecond where most calls are so short."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else format_seconds(seconds)


def _pod(call: Fields) -> str:
    """Return the pod and container of a call, otherwise their ids; and its image."""
    pod = f"{call['namespace']}/{call['pod']}" if call.get("pod") else call.get("pod_id", "")[:13]
    container = call.get("container") or call.get("container_id", "")[:13]
    subject = "/".join(filter(None, (pod, container)))
    image = "" if call.get("container") else call.get("image", "")
    return printable(" ".join(filter(None, (subject, image)))) or "-"


def _caller(call: Fields) -> str:
    name = (call["executable"] or "").rpartition("/")[2]
    return printable(name) or str(call["pid"])


def _held(call: Fields) -> str:
    return printable(",".join(call["rules"])) or "-"


def _by(name: str) -> Callable[[Fields], Any]:
    return lambda fields: fields[name] or 0


def _quantile(name: str, field: str) -> Column:
    return Column(name, lambda each: _seconds(each[field]), _by(field), descending=True)


CALLS: Final = Table(
    "calls in flight",
    "calls",
    (
        Column(
            "AGE",
            lambda call: (SLOW_MARK if call["slow"] else "") + format_seconds(call["age_s"]),
            _by("age_s"),
            descending=True,
        ),
        Column("METHOD", lambda call: printable(call["method"]), lambda call: call["method"]),
        Column("POD", _pod, _pod),
        Column("CALLER", _caller, _caller),
        Column("RULES", _held, _held),
    ),
    key=lambda call: f"{call['worker']} {call['began']} {call['method']} {call['pid']}",
    style=lambda call: {"fg": "red"} if call["slow"] else {},
)

METHODS: Final = Table(
    "methods",
    "methods",
    (
        Column("RATE", lambda each: _rate(each["rate"]), _by("rate"), descending=True),
        Column("METHOD", lambda each: printable(each["method"]), lambda each: each["method"]),
        Column("NOW", lambda each: str(each["in_flight"]), _by("in_flight"), descending=True),
        Column("ERRORS", lambda each: str(each["errors"]), _by("errors"), descending=True),
        _quantile("P50", "p50_s"),
        _quantile("P95", "p95_s"),
        _quantile("P99", "p99_s"),
    ),
    key=lambda each: f"{each['service']}/{each['method']}",
    style=lambda each: {"fg": "yellow"} if each["errors"] else {},
)

PODS: Final = Table(
    "pods starting",
    "pods",
    (
        Column("AGE", lambda pod: format_seconds(pod["age_s"]), _by("age_s"), descending=True),
        Column("POD", lambda pod: _pod({**pod, "image": ""}), lambda pod: pod["pod"]),
        Column("STATE", lambda pod: pod["state"], lambda pod: pod["state"]),
        Column(
            "FOR",
            lambda pod: format_seconds(pod["phase"]["seconds"]),
            lambda pod: pod["phase"]["seconds"],
            descending=True,
        ),
        Column(
            "PHASE", lambda pod: printable(pod["phase"]["text"]), lambda pod: pod["phase"]["text"]
        ),
    ),
    key=lambda pod: f"{pod['namespace']}/{pod['pod']} {pod['pod_uid']} {pod['began']}",
    style=lambda pod: {"fg": "red"} if pod["state"] == "failing" else {},
)

TABLES: Final = (CALLS, METHODS, PODS)
"""The tables of what is going on, in the order of the screen."""

STARTS: Final = Table(
    "pod starts that have ended",
    "starts",
    (
        Column(
            "ENDED",
            lambda start: f"{start['ended'][11:19]}Z",
            lambda start: start["ended"],
            descending=True,
        ),
        Column("POD", lambda start: _pod({**start, "image": ""}), lambda start: start["pod"]),
        Column("STATE", lambda start: start["state"], lambda start: start["state"]),
        Column("TOTAL", lambda start: _seconds(start["seconds"]), _by("seconds"), descending=True),
        Column(
            "CAUSE",
            lambda start: printable(start["cause"]["text"]),
            lambda start: start["cause"]["seconds"],
            descending=True,
        ),
    ),
    key=PODS.key,
    style=lambda start: {} if start["state"] == "started" else {"fg": "red"},
)
"""The last starts with their causes; a start that did not succeed is red."""
