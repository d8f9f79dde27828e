"""Measures how the CPU time of a call grows with its size, and with what criproxy keeps.

``python -m bench.scaling`` prints a table: microseconds of CPU for sizes from small to large, and
the exponent that fits them (least squares of the logarithms): 0 is constant, 1 linear. Each figure
is the least of several rounds in one process, without sockets, which is little disturbed by what
else runs on the machine; the fit leaves out the sizes whose cost is mostly that of a call itself.
With ``PYTHONPATH=build/compiled`` and in that directory the compiled modules are measured (``make
test-compiled`` makes them). It writes no file; the figures are kept in NOTES.md.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import log
from typing import Any, Final

import structlog

from bench.report import markdown_table
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.daemon.wall_clock import WallClock
from criproxy.daemon.worker.event_dispatcher import EventDispatcher
from criproxy.observe.calls_in_flight import CallsInFlight, SlowCalls
from criproxy.observe.logs.call_log import CallLog
from criproxy.observe.metrics import Metrics
from criproxy.peers.peer import Connection, Peer
from criproxy.relay.notifier import Notifier, ObservedConnection
from criproxy.wire.reading.connection import ConnectionReader, Side
from tests.support import wire
from tests.support.held import CLIENT, V1, Rules

_BYTES: Final = (100, 1 << 10, 16 << 10, 256 << 10, 1 << 20, 16 << 20)
_CONNECTIONS: Final = (1, 10, 100, 1000, 10_000)
_RULES: Final = (1, 10, 100, 1000)
_PODS: Final = (10, 100, 1000, 10_000)
_CHUNK: Final = 64 << 10
"""Bytes that are read from a socket at once."""
_FRAME: Final = 16 << 10
_PATH: Final = f"/{V1}/Version".encode()
_PEER: Final = Connection("unix:///run/criproxy.sock", Peer(1, 0, 0, "/usr/bin/kubelet"), 0.0)
_ROUNDS: Final = 7
_ROUND_SECONDS: Final = 0.02
"""CPU time of a round at least: so many calls are made in it."""

Call = Callable[[], Awaitable[float]]
"""Makes one call; returns the seconds of CPU, of all threads, that it took."""


@dataclass(frozen=True)
class Growth:
    """What a call's cost is measured against: ``sizes`` of it, of which ``make`` makes a call.

    ``fitted``: how many of the largest sizes the exponent is of.
    """

    title: str
    sizes: tuple[int, ...]
    make: Callable[[int], Call]
    fitted: int


def _relayed(clients: int, size: int) -> Call:
    """Return calls with a response of ``size`` bytes, by each of so many connections in turn.

    They are read, counted and logged.
    """
    clock = time.perf_counter
    logger = structlog.get_logger()
    in_flight = CallsInFlight(SlowCalls(30.0, {}))
    call_log = CallLog(logger, lambda line: None, "debug", {}, WallClock())
    dispatcher = EventDispatcher(logger, in_flight, call_log, Metrics(in_flight, clock), clock)
    notifier = Notifier(dispatcher, clock)
    observed = [
        ObservedConnection(_PEER, ConnectionReader(), notifier, clock) for _ in range(clients)
    ]
    for each in observed:
        notifier.relayed(each, Side.CLIENT, wire.PREFACE + wire.settings(), clock())
        notifier.relayed(each, Side.RUNTIME, wire.settings(), clock())
    made = 0
    content = wire.message(bytes(size))
    request = wire.block(*wire.request_fields(_PATH))

    async def call() -> float:
        nonlocal made
        each, stream = observed[made % clients], 2 * (made // clients) + 1
        made += 1
        asked = wire.headers(stream, request) + wire.data(stream, wire.message(b"m"), end=True)
        frames = [
            wire.data(stream, content[at : at + _FRAME]) for at in range(0, len(content), _FRAME)
        ]
        answer = b"".join([wire.response(stream), *frames, wire.trailers(stream)])
        chunks = [answer[at : at + _CHUNK] for at in range(0, len(answer), _CHUNK)]
        began = time.process_time()
        notifier.relayed(each, Side.CLIENT, asked, clock())
        for chunk in chunks:
            notifier.relayed(each, Side.RUNTIME, chunk, clock())
        return time.process_time() - began

    return call


def _held(rules: Rules, method: str, request: Any) -> Call:
    """Return calls that ``rules`` are evaluated for, until the request is forwarded."""
    data: bytes = request.SerializeToString()

    async def call() -> float:
        began = time.process_time()
        scripted = rules.call(method)
        scripted.says(CLIENT, data)
        await scripted.has_done(1)
        scripted.close()
        return time.process_time() - began

    return call


def _rule(where: str, method: str) -> dict[str, Any]:
    return {"match": {"methods": [method], "where": where}, "deny": {}}


def _looked_at(size: int) -> Call:
    rules = Rules(_rule("request.config.metadata.name.size() == 99", "CreateContainer"))
    request = v1.CreateContainerRequest(pod_sandbox_id="p")
    request.config.metadata.name = "app"
    request.config.annotations["large"] = "x" * size
    return _held(rules, "CreateContainer", request)


def _rewritten(size: int) -> Call:
    rule = {
        "match": {"methods": ["CreateContainer"]},
        "rewrite": {"request": {"config.metadata.name": '"changed"'}},
    }
    request = v1.CreateContainerRequest(pod_sandbox_id="p")
    request.config.annotations["large"] = "x" * size
    return _held(Rules(rule), "CreateContainer", request)


def _among_rules(count: int) -> Call:
    rules = Rules(*(_rule(f'pod.namespace == "n{n}"', "RunPodSandbox") for n in range(count)))
    request = v1.RunPodSandboxRequest()
    request.config.metadata.namespace = "other"
    return _held(rules, "RunPodSandbox", request)


def _among_pods(count: int) -> Call:
    rules = Rules(_rule('pod.namespace == "other"', "StopPodSandbox"))
    for number in range(count):
        request = v1.RunPodSandboxRequest()
        request.config.metadata.namespace = f"n{number % 10}"
        rules.resources.pod_cache.update(
            f"/{V1}/RunPodSandbox".encode(),
            request.SerializeToString(),
            v1.RunPodSandboxResponse(pod_sandbox_id=f"pod-{number}").SerializeToString(),
        )
    asked = v1.StopPodSandboxRequest(pod_sandbox_id=f"pod-{count // 2}")
    return _held(rules, "StopPodSandbox", asked)


GROWTHS: Final = (
    Growth("bytes of a response, read in passing", _BYTES, lambda n: _relayed(1, n), 3),
    Growth("connections, one call after another", _CONNECTIONS, lambda n: _relayed(n, 100), 5),
    Growth("bytes of a request, a field of which is compared", _BYTES, _looked_at, 3),
    Growth("bytes of a request, a field of which is rewritten", _BYTES, _rewritten, 3),
    Growth("rules that compare the namespace", _RULES, _among_rules, 4),
    Growth("remembered pods", _PODS, _among_pods, 4),
)


async def _measure(call: Call) -> float:
    """Return the microseconds of CPU of a call, of the best round."""
    best = float("inf")
    for _ in range(_ROUNDS):
        calls, spent = 0, 0.0
        while spent < _ROUND_SECONDS:
            spent += await call()
            calls += 1
        best = min(best, spent / calls * 1e6)
    return best


def exponent(sizes: tuple[int, ...], costs: tuple[float, ...]) -> float:
    """Return the exponent of the power of the size that fits the costs best."""
    xs, ys = [log(size) for size in sizes], [log(cost) for cost in costs]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    covariance = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return covariance / sum((x - x_mean) ** 2 for x in xs)


async def _run() -> None:
    rows = []
    for growth in GROWTHS:
        costs = tuple([await _measure(growth.make(size)) for size in growth.sizes])
        shown = ", ".join(
            f"{size:,}: {cost:,.1f}" for size, cost in zip(growth.sizes, costs, strict=True)
        )
        fit = exponent(growth.sizes[-growth.fitted :], costs[-growth.fitted :])
        rows.append((growth.title, shown, f"{fit:.2f}"))
    print(markdown_table(("what grows", "µs of CPU a call", "exponent"), rows))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    asyncio.run(_run())
