"""The log lines for events of listeners."""

import structlog
from structlog.testing import CapturingLogger
from structlog.typing import FilteringBoundLogger

from criproxy.daemon.worker.event_dispatcher import EventDispatcher
from criproxy.observe.call_log import CallLog
from criproxy.observe.calls_in_flight import CallsInFlight, SlowCalls
from criproxy.observe.metrics import Metrics


def test_a_full_listener_is_warned_of_now_and_then() -> None:
    """However often a listener is full, it is warned of once in ten seconds, each for itself."""
    now = 100.0
    lines = CapturingLogger()
    log: FilteringBoundLogger = structlog.wrap_logger(
        lines, wrapper_class=structlog.make_filtering_bound_logger(0), processors=[_fields]
    )
    calls = CallsInFlight(SlowCalls(30.0, {}))
    call_log = CallLog(log, lambda line: None, "info", {}, lambda moment: moment)
    watch = EventDispatcher(log, calls, call_log, Metrics(calls, lambda: now), lambda: now)

    for moment, listener in ((100, "a"), (101, "a"), (101, "b"), (109.9, "a"), (110, "a")):
        now = moment
        watch.accept_paused(listener, "full")

    assert [call.kwargs["listener"] for call in lines.calls] == ["a", "b", "a"]


def _fields(
    logger: object, name: str, event: structlog.typing.EventDict
) -> tuple[tuple[()], structlog.typing.EventDict]:
    return (), event
