"""Summarizes calls by method, and compares the client's counts with the proxy's."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from criproxy.cri.methods import METHODS

Counts: TypeAlias = Counter[tuple[str, str]]
"""Number of calls by method and gRPC code."""

STREAMS: Final = frozenset(method.name for method in METHODS.values() if method.server_streaming)
"""Server-streaming methods: their duration does not depend on the runtime."""


@dataclass(frozen=True, slots=True)
class Row:
    """The calls of one method, or of all. Times are in seconds.

    ``latency`` has the 50th, 95th and 99th percentile, and is None for streams. ``added`` is the
    median time that the proxy added to a call, ``share`` its share of the client's waiting time.
    """

    method: str
    calls: int
    errors: int
    latency: tuple[float, float, float] | None
    added: float
    share: float | None


def rows(calls: Iterable[Mapping[str, Any]], waited: Mapping[str, float]) -> list[Row]:
    """Summarize a call log: a row for each method by name, then one for all.

    ``waited`` is the client's total waiting time in seconds, by method.
    """
    by_method: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    unary: list[Mapping[str, Any]] = []
    for call in calls:
        by_method[call["method"]].append(call)
        if call["method"] not in STREAMS:
            unary.append(call)
    found = [
        _row(method, of_method, None if method in STREAMS else waited.get(method, 0.0))
        for method, of_method in sorted(by_method.items())
    ]
    whole = sum(seconds for method, seconds in waited.items() if method not in STREAMS)
    return [*found, _row("all but streams", unary, whole)]


def _row(method: str, calls: Sequence[Mapping[str, Any]], waited: float | None) -> Row:
    """Summarize calls; ``waited`` is None for a stream."""
    added = [call["overhead_s"] for call in calls]
    durations = [call["duration_s"] for call in calls]
    return Row(
        method,
        len(calls),
        sum(map(_is_error, calls)),
        None if waited is None else _percentiles(durations),
        percentile(added, 50),
        sum(added) / waited if waited else None,
    )


def _percentiles(durations: Sequence[float]) -> tuple[float, float, float]:
    return percentile(durations, 50), percentile(durations, 95), percentile(durations, 99)


def _is_error(call: Mapping[str, Any]) -> bool:
    """Return whether a call failed; a stream that the client cancels did not."""
    if call["method"] in STREAMS and call["code"] == "CANCELLED":
        return False
    return bool(call["code"] != "OK")


def percentile(values: Iterable[float], percent: float) -> float:
    """Return a percentile by nearest rank; 0 for no values."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def differences(client: Counts, proxy: Counts) -> list[str]:
    """Return the methods and codes whose counts differ, without streams.

    The client ends streams with its connection and does not learn their codes.
    """
    return [
        f"{method} {code}: client {client[method, code]}, proxy {proxy[method, code]}"
        for method, code in sorted(client.keys() | proxy.keys())
        if method not in STREAMS and client[method, code] != proxy[method, code]
    ]
