"""Calls counted by method, and the client's count held against the proxy's."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from criproxy.cri.methods import METHODS

Counts: TypeAlias = Counter[tuple[str, str]]
"""How many calls there were by method and gRPC code."""

STREAMS: Final = frozenset(method.name for method in METHODS.values() if method.server_streaming)
"""Methods that last until somebody ends them: their duration says nothing of the runtime."""


@dataclass(frozen=True, slots=True)
class Row:
    """What the proxy saw of one method, or of all. Times are in seconds.

    ``latency`` has the 50th, 95th and 99th percentile, and is None for streams. ``added`` is the
    median of what the proxy itself added to a call, ``share`` its part of what the client waited.
    """

    method: str
    calls: int
    errors: int
    latency: tuple[float, float, float] | None
    added: float
    share: float | None


def rows(calls: Iterable[Mapping[str, Any]], waited: Mapping[str, float]) -> list[Row]:
    """Sum the lines of a call log up: a row for each method by name, then one for all.

    ``waited`` has the seconds that the client has waited in all, by method.
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
    """Sum calls up; ``waited`` is None for a stream."""
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
    """Tell whether a call failed; that a client ends a stream is no failure."""
    if call["method"] in STREAMS and call["code"] == "CANCELLED":
        return False
    return bool(call["code"] != "OK")


def percentile(values: Iterable[float], percent: float) -> float:
    """Return the smallest value that so many percent are not above (nearest rank); 0 of none."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def differences(client: Counts, proxy: Counts) -> list[str]:
    """Name the methods and codes that the two did not count alike, streams left out.

    Streams are left out because the client ends them with its connection and is not told of it.
    """
    return [
        f"{method} {code}: client {client[method, code]}, proxy {proxy[method, code]}"
        for method, code in sorted(client.keys() | proxy.keys())
        if method not in STREAMS and client[method, code] != proxy[method, code]
    ]
