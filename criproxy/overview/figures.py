"""Figures of a window of time, from the states of a daemon at its beginning and its end. Pure.

The states are those of the admin socket (:mod:`criproxy.daemon.supervisor.http.live_state`).
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any, Final

VERSION: Final = 1
"""The version of the JSON form, and of the states that can be read."""

QUANTILES: Final = (("p50_s", 0.5), ("p95_s", 0.95), ("p99_s", 0.99))
"""The names of the quantiles in the JSON form."""

_MAX_STATES: Final = 600
"""States that are kept of a window: more than one asks for in it."""

_COMPARED: Final = ("time", "started", "uptime_s", "methods")
"""What is kept of a state. Calls are not: a client may have as many as it likes."""

State = Mapping[str, Any]
Buckets = Sequence[tuple[float | None, float]]
"""Upper bounds (None: unlimited), in order, and how many values are in each bucket."""


def quantile(buckets: Buckets, share: float) -> float | None:
    """Return a quantile as Prometheus' histogram_quantile() estimates it; None without values.

    Values are taken to be spread evenly in their bucket; above the last bound it is that bound.
    """
    ends = list(accumulate(count for _, count in buckets))
    if not ends or not ends[-1]:
        return None
    rank = share * ends[-1]
    index = bisect_left(ends, rank)
    bound, count = buckets[index]
    lower = buckets[index - 1][0] or 0.0 if index else 0.0
    if bound is None:
        return lower
    return lower + (bound - lower) * (rank - (ends[index] - count)) / count


def figures(after: State, before: State | None = None) -> dict[str, Any]:
    """Return the figures between two states; without the first one, since the daemon started.

    ``calls``, ``pods``, ``time`` and ``runtime_problem`` are as in the last state. Rates are per
    second of ``window_s``, quantiles those of the calls that ended in it. Where the daemon was
    started anew in between, the window begins with that.
    """
    if before is not None and before["started"] != after["started"]:
        before = None
    window = after["uptime_s"] - (0.0 if before is None else before["uptime_s"])
    earlier = {_key(each): each for each in (before["methods"] if before else ())}
    in_flight: dict[tuple[str, str], int] = {}
    for call in after["calls"]:
        in_flight[_key(call)] = in_flight.get(_key(call), 0) + 1
    methods = {_key(each): each for each in after["methods"]}
    return {
        "version": VERSION,
        "criproxy": after["criproxy"],
        "time": after["time"],
        "window_s": round(window, 6),
        "runtime_problem": after["runtime_problem"],
        "calls": after["calls"],
        "methods": [
            _method(key, methods.get(key, {}), earlier.get(key, {}), window, in_flight.get(key, 0))
            for key in sorted({*methods, *in_flight})
        ],
        "pods": after["pods"],
    }


def _method(
    key: tuple[str, str], after: State, before: State, window: float, in_flight: int
) -> dict[str, Any]:
    ended, failed = _counts(after)
    ended_before, failed_before = _counts(before)
    calls, errors = max(ended - ended_before, 0), max(failed - failed_before, 0)
    buckets = _difference(after, before)
    return {
        "service": key[0],
        "method": key[1],
        "in_flight": in_flight,
        "calls": calls,
        "errors": errors,
        "rate": round(calls / window, 6) if window else 0.0,
        "error_rate": round(errors / window, 6) if window else 0.0,
        **{name: _rounded(quantile(buckets, share)) for name, share in QUANTILES},
    }


def _key(fields: State) -> tuple[str, str]:
    return fields["service"], fields["method"]


def _counts(method: State) -> tuple[int, int]:
    """Return how many calls have ended, and with another code than OK."""
    codes = method.get("codes", {})
    return sum(codes.values()), sum(count for code, count in codes.items() if code != "OK")


def _difference(after: State, before: State) -> Buckets:
    """Return the buckets of what came between two cumulative ones."""
    earlier = dict(before.get("buckets", ()))
    found: list[tuple[float | None, float]] = []
    below = 0.0
    for bound, count in after.get("buckets", ()):
        cumulative = count - earlier.get(bound, 0)
        found.append((bound, max(cumulative - below, 0.0)))
        below = max(cumulative, below)
    return found


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


class Window:
    """The last states of a daemon, and the figures between the first and the last of them."""

    def __init__(self, seconds: float) -> None:
        """``seconds``: how far the first state may lie behind the last."""
        self._seconds = seconds
        self._states: deque[State] = deque(maxlen=_MAX_STATES)

    def add(self, state: State) -> dict[str, Any]:
        """Add the state of now; return the figures. The first ones are since the daemon started."""
        states = self._states
        states.append({name: state[name] for name in _COMPARED})
        while len(states) > 2 and _time(states[1]) <= _time(state) - self._seconds:
            states.popleft()
        return figures(state, states[0] if len(states) > 1 else None)


def _time(state: State) -> float:
    return datetime.fromisoformat(state["time"]).timestamp()
