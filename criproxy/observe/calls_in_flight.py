"""Keeps the calls in flight and detects slow ones."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from criproxy.cri.naming import MethodName, matches, resolve
from criproxy.observe.logs.subject_fields import SubjectFields
from criproxy.peers.peer import Connection
from criproxy.wire.reading.calls import Call


class SlowCalls:
    """The thresholds for slow calls.

    ``threshold`` is in seconds; ``by_method`` maps globs to other thresholds, the first match
    applies. Streams are exempt unless a glob matches them; a threshold of 0 exempts.
    """

    def __init__(self, threshold: float, by_method: Mapping[str, float]) -> None:
        self._threshold = threshold
        self._by_method = tuple(by_method.items())
        self.threshold_of = lru_cache(maxsize=1024)(self._threshold_of)

    def _threshold_of(self, method_name: MethodName) -> float | None:
        """Return the age in seconds from which calls of a method are slow; None: never."""
        for pattern, threshold in self._by_method:
            if matches(pattern, method_name):
                return threshold or None
        return None if method_name.server_streaming else self._threshold or None


class CallsInFlight:
    """The calls that have begun but not ended, in the order in which they began."""

    def __init__(self, slow: SlowCalls) -> None:
        self._slow = slow
        self._calls: dict[Call, Connection] = {}
        self._warned: set[Call] = set()

    def __len__(self) -> int:
        return len(self._calls)

    def began(self, connection: Connection, call: Call) -> None:
        """Add a call."""
        self._calls[call] = connection

    def ended(self, call: Call) -> bool:
        """Remove a call; return whether it was reported as slow."""
        self._calls.pop(call, None)
        if call in self._warned:
            self._warned.discard(call)
            return True
        return False

    def newly_slow(self, now: float) -> list[tuple[Call, Connection]]:
        """Return the calls that have become slow since the last call of this method."""
        found = []
        for call, connection in self._calls.items():
            if call in self._warned:
                continue
            threshold = self._slow.threshold_of(resolve(call.path))
            if threshold is not None and now - call.began >= threshold:
                self._warned.add(call)
                found.append((call, connection))
        return found

    def snapshot(self) -> list[tuple[Call, Connection]]:
        """Return all calls, the oldest first. Thread-safe."""
        return list(self._calls.items())

    def described(
        self, now: float, subject_of: SubjectFields, wall_clock_of: Callable[[float], float]
    ) -> Iterator[dict[str, Any]]:
        """Yield the fields of each call for ``/calls``, the oldest first.

        ``now`` is a time of the calls' clock, which ``wall_clock_of`` converts to seconds since the
        epoch.
        """
        for call, connection in self.snapshot():
            method_name = resolve(call.path)
            peer = connection.peer
            threshold = self._slow.threshold_of(method_name)
            began = datetime.fromtimestamp(wall_clock_of(call.began), UTC)
            yield {
                "listener": connection.listener,
                "service": method_name.service,
                "method": method_name.method,
                "began": began.isoformat(timespec="microseconds").replace("+00:00", "Z"),
                "age_s": round(now - call.began, 6),
                "slow": threshold is not None and now - call.began >= threshold,
                "pid": peer.pid,
                "uid": peer.uid,
                "gid": peer.gid,
                "executable": peer.executable,
                "answering": call.first_byte is not None,
                "request_messages": call.request.messages,
                "request_bytes": call.request.bytes,
                "response_messages": call.response.messages,
                "response_bytes": call.response.bytes,
                "rules": list(call.rules),
                "held_s": round(call.held_by(now), 6),
                **subject_of(connection, call),
            }
