"""A kubelet-like client under load that reconnects, and a record of how each call ended."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Self

import grpc

from criproxy.client import CriClient

DEADLINE: Final = 60.0
"""Seconds after which a call counts as hung."""
PROBE_SECONDS: Final = 0.1
"""Interval of the probes, each on a connection of its own."""


@dataclass(frozen=True, slots=True)
class EndedCall:
    """A call: its method, when it began (seconds of the monotonic clock), and how it ended."""

    method: str
    began: float
    seconds: float
    code: str
    details: str = ""

    @property
    def failed(self) -> bool:
        """Whether it did not succeed."""
        return self.code != "OK"

    @property
    def ended(self) -> float:
        """When it ended."""
        return self.began + self.seconds


@dataclass(slots=True)
class Record:
    """All calls of a client, and how often its event stream broke."""

    calls: list[EndedCall] = field(default_factory=list)
    broken_streams: int = 0

    @property
    def failures(self) -> list[EndedCall]:
        """The calls that did not succeed."""
        return [call for call in self.calls if call.failed]

    @property
    def hung(self) -> int:
        """The number of calls that the client gave up."""
        return sum(call.code == "DEADLINE_EXCEEDED" for call in self.calls)

    @property
    def worst(self) -> float:
        """The longest call, in seconds, without those that are long by themselves."""
        return max((call.seconds for call in self.calls if call.method != LONG), default=0.0)

    def percentile(self, percent: float) -> float:
        """Return a percentile of the durations, in seconds, by nearest rank."""
        ordered = sorted(call.seconds for call in self.calls if call.method != LONG)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


LONG: Final = "ExecSync (long)"
"""The calls of :meth:`Load.long_call`."""


class Load:
    """Calls of a kubelet's kinds on one connection, from several threads, from entering to leaving.

    Beside them there are a stream of events, which is opened again when it ends, and probes on new
    connections. ``rate`` is in calls a second over all threads, None for as many as possible.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        threads: int = 3,
        rate: float | None = None,
        mutating: bool = True,
        events: bool = True,
    ) -> None:
        self.record = Record()
        self._endpoint = endpoint
        self._client = CriClient(endpoint, timeout=DEADLINE)
        self._pause = 0.0 if rate is None else threads / rate
        self._stop = threading.Event()
        self._lock = threading.Lock()
        jobs = [*[self._work] * threads, self._probe]
        self._threads = [threading.Thread(target=job, daemon=True) for job in jobs]
        # The stream ends with the connection, after the other threads.
        watch = [self._watch] if events else []
        self._watchers = [threading.Thread(target=job, daemon=True) for job in watch]
        self._long: list[threading.Thread] = []
        self._mutating = mutating
        self._sandbox = self._container = ""

    def completed(self) -> int:
        """Return how many calls have ended."""
        return len(self.record.calls)

    def long_call(self, seconds: int) -> None:
        """Begin a call that lasts so many seconds; it is awaited at the end."""

        def call() -> None:
            request = {"container_id": self._container, "cmd": ["sleep", str(seconds)]}
            self._call(LONG, lambda: self._client.call("ExecSync", deadline=DEADLINE, **request))

        self._long.append(threading.Thread(target=call, daemon=True))
        self._long[-1].start()

    def __enter__(self) -> Self:
        container = self._client.ListContainers().containers[0]
        self._container, self._sandbox = container.id, container.pod_sandbox_id
        for thread in (*self._threads, *self._watchers):
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for long in self._long:
            long.join()
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._client.close()
        for thread in self._watchers:
            thread.join()

    def _work(self) -> None:
        chance = random.Random()
        calls = self._calls()
        while not self._stop.is_set():
            began = time.monotonic()
            for method, function in chance.choice(calls)():
                self._call(method, function)
            self._stop.wait(max(0.0, self._pause - (time.monotonic() - began)))

    def _calls(self) -> list[Callable[[], Any]]:
        """Return functions, each of which yields one or more calls with their names."""
        client = self._client

        def plain(method: str, **fields: Any) -> Callable[[], Any]:
            return lambda: [(method, lambda: client.call(method, **fields))]

        def container() -> Any:
            config = {
                "metadata": {"name": f"c{random.getrandbits(64):x}"},
                "image": {"image": "busybox:1.36"},
            }
            made: list[str] = []
            request = {"pod_sandbox_id": self._sandbox, "config": config}
            yield (
                "CreateContainer",
                lambda: made.append(client.call("CreateContainer", **request).container_id),
            )
            if made:
                yield (
                    "RemoveContainer",
                    lambda: client.call("RemoveContainer", container_id=made[0]),
                )

        reads = [
            plain("Version"),
            plain("Version"),
            plain("Status"),
            plain("ListPodSandbox"),
            plain("ListContainers"),
            plain("ContainerStatus", container_id=self._container),
            plain("ListImages"),
        ]
        echo = plain("ExecSync", container_id=self._container, cmd=["echo", "x"])
        return [*reads, echo, container] if self._mutating else reads

    def _probe(self) -> None:
        while not self._stop.wait(PROBE_SECONDS):
            with CriClient(self._endpoint, timeout=DEADLINE) as client:
                self._call("Version (probe)", client.Version)

    def _watch(self) -> None:
        while not self._stop.is_set():
            with suppress(grpc.RpcError, ValueError):
                for _ in self._client.call("GetContainerEvents"):
                    pass
            if not self._stop.is_set():
                with self._lock:
                    self.record.broken_streams += 1
            self._stop.wait(0.05)

    def _call(self, method: str, function: Callable[[], Any]) -> None:
        began = time.monotonic()
        code, details = "OK", ""
        try:
            function()
        except grpc.RpcError as error:
            code, details = error.code().name, error.details() or ""
        seconds = time.monotonic() - began
        with self._lock:
            self.record.calls.append(EndedCall(method, began, seconds, code, details))


def describe(failures: Sequence[EndedCall]) -> str:
    """Return a text of the failed calls, the most frequent kinds of failure first."""
    kinds: dict[str, int] = {}
    for call in failures:
        kind = f"{call.method} {call.code}: {call.details[:60]}"
        kinds[kind] = kinds.get(kind, 0) + 1
    ordered = sorted(kinds.items(), key=lambda item: -item[1])
    return "; ".join(f"{count} x {kind}" for kind, count in ordered[:5]) or "none"
