"""What the daemon is doing now, from the answers of all workers: the JSON of the admin socket, and
what the page shows.

Fields are added, and keep their meaning, as long as the version stays the same. Times are RFC 3339
in UTC, durations seconds.
"""

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from criproxy import __version__
from criproxy.daemon.supervisor.http.pages import WorkerPages
from criproxy.observe.metrics_merge import Snapshot, merge

if TYPE_CHECKING:
    from criproxy.timeline.live import LivePods

VERSION: Final = 1
"""The version of the JSON."""

_ENDED_STARTS: Final = 50
"""Pod starts that have ended in what the page shows."""

_CALLS: Final = "criproxy_calls_total"
_BUCKETS: Final = "criproxy_call_duration_seconds_bucket"


class LiveState:
    """Makes the answers of the admin socket. Its methods may be called on any thread.

    They raise TimeoutError or RuntimeError if the event loop does not turn, or has ended.
    """

    def __init__(
        self,
        workers: WorkerPages,
        snapshots: Callable[[], Iterable[Snapshot]],
        problem: Callable[[], str | None],
        started: float,
    ) -> None:
        """``problem`` returns what is wrong with the runtime, or None.

        ``started``: when the daemon started, in seconds since the epoch.
        """
        self._workers = workers
        self._snapshots = snapshots
        self._problem = problem
        self._started = started

    def state(self) -> dict[str, Any]:
        """Return the calls in flight, the counters of methods, and the pods that are starting."""
        return self._state()[0]

    def overview(self) -> dict[str, Any]:
        """Return the same, and as ``starts`` the last pod starts that have ended."""
        state, pods = self._state()
        return state | {"starts": pods.ended(_ENDED_STARTS)}

    def _state(self) -> tuple[dict[str, Any], "LivePods"]:
        from criproxy.timeline.live import LivePods

        states = self._workers.states()
        now = time.time()
        calls = _calls(states)
        pods = LivePods(_lines(states), calls, now)
        state = self._head(now) | {
            "started": _text_of_time(self._started),
            "uptime_s": round(max(now - self._started, 0.0), 6),
            "runtime_problem": self._problem(),
            "calls": calls,
            "methods": method_counters(self._snapshots()),
            "pods": pods.starting(),
        }
        return state, pods

    def pods(self) -> dict[str, Any]:
        """Return the last pod starts, those that have ended, too."""
        from criproxy.timeline.live import LivePods

        states = self._workers.states()
        now = time.time()
        return self._head(now) | {"pods": LivePods(_lines(states), _calls(states), now).all()}

    def _head(self, now: float) -> dict[str, Any]:
        return {"version": VERSION, "criproxy": __version__, "time": _text_of_time(now)}


def method_counters(snapshots: Iterable[Snapshot]) -> list[dict[str, Any]]:
    """Return what was counted of each method since the daemon started.

    ``codes`` are numbers of calls by gRPC code; ``buckets`` pairs of an upper bound of the duration
    (seconds; None: unlimited) and how many calls took no longer.
    """
    methods: dict[tuple[str, str], dict[str, Any]] = {}
    for family in merge(snapshots):
        for sample in family.samples:
            if sample.name not in (_CALLS, _BUCKETS):
                continue
            labels = sample.labels
            service, method = labels["service"], labels["method"]
            row = methods.setdefault(
                (service, method),
                {"service": service, "method": method, "codes": {}, "buckets": []},
            )
            if sample.name == _CALLS:
                codes = row["codes"]
                codes[labels["code"]] = codes.get(labels["code"], 0) + int(sample.value)
            else:
                bound = None if labels["le"] == "+Inf" else float(labels["le"])
                row["buckets"].append([bound, int(sample.value)])
    return [methods[each] for each in sorted(methods)]


def _calls(states: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    calls = [call | {"worker": name} for name, state in states for call in state["calls"]]
    return sorted(calls, key=lambda call: -call["age_s"])


def _lines(states: list[tuple[str, Any]]) -> list[bytes]:
    return [line for _, state in states for line in state["lines"]]


def _text_of_time(seconds: float) -> str:
    from criproxy.timeline.json_form import text_of_time

    return text_of_time(seconds)
