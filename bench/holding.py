"""Measures the CPU time and the objects of calls that rules look at, interpreted and compiled.

``python -m bench.holding`` gives messages of a kubelet, in grpc-go's frames, to an interceptor with
a policy, and what is forwarded to the reader, the metrics and the call log, without sockets. It
does so in processes by turns: with this tree's modules, which are interpreted, and with those of
``build/compiled``, which ``make test-compiled`` makes. For each kind of call it prints microseconds
of CPU, and blocks of memory that a call occupies while the runtime has its request, the garbage
collector being off (``sys.getallocatedblocks``: objects and the memory that belongs to them,
without those that were freed before). It writes no file.

``--profile KIND`` prints where the time of a kind of call goes.
"""

import cProfile
import gc
import pstats
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import msgspec
import structlog

from bench import wire
from bench.builds import Figures, main
from bench.go_hpack import GoEncoder
from bench.load import TIMEOUTS_US
from criproxy.concurrency.steps import LargeMessageExecutor
from criproxy.concurrency.tasks import Tasks
from criproxy.config.value_types import decode
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.daemon.wall_clock import WallClock
from criproxy.daemon.worker.event_dispatcher import EventDispatcher
from criproxy.enforce.counts import Counts
from criproxy.enforce.policies.rule_policy import RulePolicy
from criproxy.enforce.resources import Resources
from criproxy.observe.calls_in_flight import CallsInFlight, SlowCalls
from criproxy.observe.logs.call_log import CallLog
from criproxy.observe.metrics import Metrics
from criproxy.peers.peer import Connection, Peer
from criproxy.relay.connections.interceptor import RelayInterceptor
from criproxy.relay.notifier import Notifier, ObservedConnection
from criproxy.relay.policy import ActivePolicy
from criproxy.rules.compiled.ruleset import compile_rules
from criproxy.rules.pod_cache import PodCache
from criproxy.rules.spec import RuleSpec
from criproxy.wire.intercept.held_bytes import HeldBytesBudget
from criproxy.wire.reading.connection import CallEnded, ConnectionReader, Side
from criproxy.wire.reading.message_capture import CaptureLimits
from tests.support.captures import capture
from tests.support.wire import data, headers, message, response, trailers, window_update

_CALLS: Final = 200
"""Calls on each connection."""
_WARM: Final = 20
"""How many of them are not measured."""
_REPEATS: Final = 15
"""Connections of each kind of call; the least of their figures counts."""
_RUNTIME: Final = "/runtime.v1.RuntimeService/"
_IMAGES: Final = "/runtime.v1.ImageService/"
_POD: Final = "0123456789abcdef" * 4

Rule = dict[str, Any]
Chunk = tuple[Side, bytes]
Calls = list[tuple[list[Chunk], list[Chunk]]]
"""The chunks of calls, one after another: those that bring the request, and the others."""


@dataclass(frozen=True)
class Kind:
    """A kind of call: its path, its messages, the rules."""

    name: str
    path: str
    request: bytes
    response: bytes
    rules: Sequence[Rule]


def _recorded(path: str) -> tuple[bytes, bytes]:
    """Return the messages of a kubelet's first recorded call of a path."""
    limits = CaptureLimits(request=1 << 20, response=1 << 20)
    for name in ("kubelet-01", "kubelet-02"):
        reader = ConnectionReader(select_capture=lambda _: limits)
        for sent in capture(name):
            for event in reader.receive(sent.side, sent.data, sent.now):
                if isinstance(event, CallEnded) and event.call.path == path.encode():
                    found = event.call.capture
                    assert found is not None
                    assert found.request is not None
                    assert found.response is not None
                    return found.request.messages[0][0], found.response.messages[0][0]
    raise LookupError(path)


def _twenty(methods: str, where: str | None) -> list[Rule]:
    """Return rules that deny calls where a text that contains their number is equal."""
    match = {"methods": [methods]}
    more = [{} if where is None else {"where": where % number} for number in range(20)]
    return [{"name": f"r{n}", "match": match | each, "deny": {}} for n, each in enumerate(more)]


def _kinds() -> list[Kind]:
    create, pull, start = (
        (path, *_recorded(path))
        for path in (
            f"{_RUNTIME}CreateContainer",
            f"{_IMAGES}PullImage",
            f"{_RUNTIME}StartContainer",
        )
    )
    status = v1.PodSandboxStatusRequest(pod_sandbox_id=_POD).SerializeToString()
    known = (f"{_RUNTIME}PodSandboxStatus", status, b"")
    rewrite = {"name": "rewrite", "match": {"methods": ["CreateContainer", "PullImage"]}}
    annotated = rewrite | {
        "match": {"methods": ["CreateContainer"]},
        "rewrite": {"request": {'config.annotations["owner"]': '"team"'}},
    }
    pulled = rewrite | {
        "match": {"methods": ["PullImage"]},
        "rewrite": {"request": {"image.image": '"mirror.corp/" + request.image.image'}},
    }
    return [
        Kind("StartContainer, no rules", *start, []),
        Kind("StartContainer, 20 rules of other methods", *start, _twenty("Attach", None)),
        Kind(
            "PodSandboxStatus, 20 rules that compare the namespace",
            *known,
            _twenty("PodSandboxStatus", 'pod.namespace == "n%d"'),
        ),
        Kind(
            "PodSandboxStatus, 20 rules that are evaluated",
            *known,
            _twenty("PodSandboxStatus", 'pod.namespace.startsWith("n%d")'),
        ),
        Kind("PullImage, rewritten", *pull, [pulled]),
        Kind("CreateContainer, rewritten", *create, [annotated]),
    ]


class _Relay:
    """A connection with a policy, observed as the daemon observes it, without its sockets."""

    def __init__(self, kind: Kind) -> None:
        clock = time.perf_counter
        log = structlog.get_logger()
        lines: deque[bytes] = deque(maxlen=1)
        calls = CallsInFlight(SlowCalls(30.0, {}))
        call_log = CallLog(log, lines.append, "debug", {}, WallClock())
        dispatcher = EventDispatcher(log, calls, call_log, Metrics(calls, clock), clock)
        self.forwarded: deque[bytes] = deque(maxlen=10)
        """What was last written to the runtime."""
        self._clock = clock
        self.notifier = Notifier(dispatcher, clock)
        self._observed = ObservedConnection(
            Connection("unix:///run/criproxy.sock", Peer(1, 0, 0, "/usr/bin/kubelet"), 0.0),
            ConnectionReader(),
            self.notifier,
            clock,
        )
        self._interceptor: RelayInterceptor | None = None
        if kind.rules:
            policy = _policy(kind.rules)
            self._interceptor = RelayInterceptor(
                self._observed,
                ActivePolicy(HeldBytesBudget(), policy),
                lambda written: None,
                self.forwarded.append,
                lambda: ([], []),
                lambda: None,
            )

    def receive(self, *parts: Sequence[Chunk]) -> None:
        """Handle bytes of both sides as a pair of sockets does."""
        for part in parts:
            for side, chunk in part:
                if self._interceptor is None:
                    self.notifier.relayed(self._observed, side, chunk, self._clock())
                else:
                    self._interceptor.received(side, chunk, self._clock())


def _policy(rules: Sequence[Rule]) -> RulePolicy:
    specs = [msgspec.convert(rule, RuleSpec, dec_hook=decode) for rule in rules]
    pod_cache = PodCache()
    request = v1.RunPodSandboxRequest()
    request.config.metadata.namespace = "shop"
    request.config.labels["app"] = "web"
    pod_cache.update(
        f"{_RUNTIME}RunPodSandbox".encode(),
        request.SerializeToString(),
        v1.RunPodSandboxResponse(pod_sandbox_id=_POD).SerializeToString(),
    )
    resources = Resources(
        pod_cache=pod_cache,
        counts=Counts(),
        tasks=Tasks(lambda name, error: None),
        log=structlog.get_logger(),
        clock=time.perf_counter,
        held_limit=16 << 20,
        message_executor=LargeMessageExecutor(),
    )
    return RulePolicy(compile_rules(specs), resources)


def _opening() -> list[Chunk]:
    client = wire.Client()
    settings = wire.frame(wire.SETTINGS, 0, 0, b"")
    acknowledged = wire.frame(wire.SETTINGS, wire.ACK, 0, b"")
    return [
        (Side.CLIENT, client.opening()),
        (Side.RUNTIME, settings + acknowledged),
        (Side.CLIENT, acknowledged),
    ]


def _calls(kind: Kind, grant: int) -> Calls:
    """Make calls; ``grant``: bytes of each request's DATA as the runtime receives it."""
    random, encoder = Random(1), GoEncoder()
    ping = wire.frame(wire.PING, 0, 0, wire.ESTIMATE)
    pong = wire.frame(wire.PING, wire.ACK, 0, wire.ESTIMATE)
    answer = message(kind.response)
    calls = []
    for stream in range(1, 2 * _CALLS, 2):
        fields = wire.request_fields(kind.path, random.choice(TIMEOUTS_US))
        block = encoder.encode(fields)
        request = headers(stream, block) + data(stream, message(kind.request), end=True)
        answered = response(stream) + data(stream, answer) + trailers(stream)
        calls.append(
            (
                [(Side.CLIENT, request)],
                [
                    (Side.RUNTIME, window_update(0, grant) + ping),
                    (Side.CLIENT, pong),
                    (Side.RUNTIME, answered),
                    (Side.CLIENT, window_update(0, len(answer)) + ping),
                    (Side.RUNTIME, pong),
                ],
            )
        )
    return calls


def _opened(kind: Kind) -> _Relay:
    relay = _Relay(kind)
    relay.receive(_opening())
    return relay


def _granted(kind: Kind) -> int:
    """Return how many bytes of DATA the runtime receives of a call."""
    if not kind.rules:
        return len(message(kind.request))
    relay = _opened(kind)
    relay.forwarded.clear()
    relay.receive(_calls(kind, 1)[0][0])
    frames, at, size = b"".join(relay.forwarded), 0, 0
    while at < len(frames):
        length = int.from_bytes(frames[at : at + 3], "big")
        size += length if frames[at + 3] == wire.DATA else 0
        at += length + 9
    return size


def _seconds(kind: Kind, calls: Calls, profile: cProfile.Profile | None = None) -> float:
    """Return the seconds of CPU of a call on a new connection."""
    relay = _opened(kind)
    for requested, rest in calls[:_WARM]:
        relay.receive(requested, rest)
    gc.collect()
    gc.freeze()  # as the daemon does: what is collected is of the calls
    if profile is not None:
        profile.enable()
    began = time.process_time()
    for requested, rest in calls[_WARM:]:
        relay.receive(requested, rest)
    spent = time.process_time() - began
    if profile is not None:
        profile.disable()
    gc.unfreeze()
    assert relay.notifier.calls_ended == _CALLS, kind.name
    return spent / (_CALLS - _WARM)


def _blocks_in_flight(kind: Kind) -> float:
    """Return the blocks of memory that a call occupies while the runtime has its request."""
    calls = _calls(kind, _granted(kind))
    relay = _opened(kind)
    for requested, rest in calls[:_WARM]:
        relay.receive(requested, rest)
    gc.collect()
    gc.disable()
    before = sys.getallocatedblocks()
    for requested, rest in calls[_WARM:]:
        relay.receive(requested, rest[:1])
    blocks = sys.getallocatedblocks() - before
    gc.enable()
    return blocks / (_CALLS - _WARM)


def _measure() -> Figures:
    figures: Figures = {}
    for kind in _kinds():
        calls = _calls(kind, _granted(kind))
        figures[f"{kind.name}, µs of CPU a call"] = min(
            _seconds(kind, calls) * 1e6 for _ in range(_REPEATS)
        )
        figures[f"{kind.name}, blocks in flight a call"] = _blocks_in_flight(kind)
    return figures


def _profile(name: str) -> None:
    (kind,) = (each for each in _kinds() if name in each.name)
    calls = _calls(kind, _granted(kind))
    profile = cProfile.Profile(time.process_time)
    for _ in range(_REPEATS):
        _seconds(kind, calls, profile)
    pstats.Stats(profile).sort_stats("tottime").print_stats(40)


if __name__ == "__main__":
    if "--profile" in sys.argv:
        _profile(sys.argv[-1])
    else:
        main("bench.holding", __doc__, _measure)
