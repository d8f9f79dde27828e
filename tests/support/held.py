"""A held stream without a connection: gives events to a handler and records its commands.

It checks the handler's use of the interface: nothing is sent in place of a message not given,
nothing is commanded before the stream is opened.
"""

import asyncio
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from google.protobuf.message import Message

from criproxy.concurrency.steps import LargeMessageExecutor
from criproxy.concurrency.tasks import Tasks
from criproxy.config.value_types import decode
from criproxy.enforce.counts import Counts
from criproxy.enforce.hooks.hook import Hook
from criproxy.enforce.policies.rule_policy import RulePolicy
from criproxy.enforce.resources import Resources
from criproxy.peers.peer import Connection
from criproxy.rules.compiled.ruleset import compile_rules
from criproxy.rules.pod_cache import PodCache
from criproxy.rules.spec import RuleSpec
from criproxy.wire.grpc import StatusCode
from criproxy.wire.hpack.decoder import Header
from criproxy.wire.intercept.stream_handler import HeldStream, Hold
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.connection import Side
from tests.support.calls import CONNECTION

CLIENT, RUNTIME = Side.CLIENT, Side.RUNTIME
HELD_LIMIT = 16 << 20
V1 = "runtime.v1.RuntimeService"
IMAGES = "runtime.v1.ImageService"

Done = tuple[Any, ...]
"""A command: its name, the side, and what is sent (or code and message)."""


def specs(rules: Sequence[dict[str, Any]]) -> list[RuleSpec]:
    """Rules as the configuration has them; those without a name are called r0, r1, …"""
    named = [{"name": f"r{number}", **rule} for number, rule in enumerate(rules)]
    return [msgspec.convert(rule, RuleSpec, dec_hook=decode) for rule in named]


class Written(list[tuple[str, dict[str, Any]]]):
    """A log that records its events."""

    def info(self, event: str, **fields: Any) -> None:
        self.append((event, fields))

    warning = info

    def of(self, event: str) -> list[dict[str, Any]]:
        return [fields for written, fields in self if written == event]


class Rules:
    """A policy made of rules as the configuration has them. To be made on a loop."""

    def __init__(
        self,
        *rules: dict[str, Any],
        hooks: Mapping[str, Hook] | None = None,
        dry_run: bool = False,
        held_limit: int = HELD_LIMIT,
        message_executor: Any = None,
        previous: "Rules | None" = None,
    ) -> None:
        self.crashed: list[BaseException] = []
        if previous is None:
            self.log = Written()
            self.counts = Counts()
            self.resources = Resources(
                pod_cache=PodCache(),
                counts=self.counts,
                tasks=Tasks(lambda name, error: self.crashed.append(error)),
                log=self.log,
                clock=asyncio.get_running_loop().time,
                held_limit=held_limit,
                message_executor=message_executor or LargeMessageExecutor(),
            )
        else:
            self.log, self.counts, self.resources = (
                previous.log,
                previous.counts,
                previous.resources,
            )
        self.policy: RulePolicy = RulePolicy(
            compile_rules(specs(rules), dry_run),
            self.resources,
            hooks or {},
            None if previous is None else previous.policy,
        )

    def call(self, path: str, **keys: Any) -> "Scripted":
        """Open a call of ``Service/Method``, or of a method of v1's RuntimeService."""
        if "/" not in path:
            path = f"{V1}/{path}"
        return Scripted(self, f"/{path}".encode(), **keys)


@dataclass
class _Given:
    """The state of one direction: messages given to the handler and not commanded yet."""

    held: bool = False
    pending: int = 0
    ended: bool = False


class Scripted:
    """One call. ``done`` are its handler's commands."""

    def __init__(
        self,
        rules: Rules,
        path: bytes,
        *,
        timeout: bytes = b"",
        headers: Sequence[Header] = (),
        connection: Connection = CONNECTION,
        followed: bool = True,
    ) -> None:
        """``followed``: whether the connection's calls are known to the policy."""
        self.done: list[Done] = []
        self._more = asyncio.Event()
        self.is_closed = False
        self._opened = False
        self._sides = {CLIENT: _Given(), RUNTIME: _Given()}
        now = asyncio.get_running_loop().time()
        self.call = Call(1, path, timeout, True, now)
        sent = [(b":path", path), (b"content-type", b"application/grpc"), *headers]
        if timeout:
            sent.append((b"grpc-timeout", timeout))
        self.stream = HeldStream(self, 1, path, sent)
        self.hold: Hold | None = None
        if rules.policy.wanted(path):
            call = self.call if followed else None
            self.hold = rules.policy.begin(connection, call, self.stream, sent)
        if self.hold is not None:
            self._sides[CLIENT].held = self.hold.request
            self._sides[RUNTIME].held = self.hold.response
            self._opened = True
            self.hold.handler.opened()

    # Events.

    def says(
        self, side: Side, *messages: Message | bytes, compressed: bool = False, end: bool = True
    ) -> None:
        """Give the handler messages of a direction, if it is held, and its end."""
        for message in messages:
            if not self._is_told(side):
                return
            data = message if isinstance(message, bytes) else message.SerializeToString()
            self._sides[side].pending += 1
            self._handler.message(side, data, compressed)
        if end and self._is_told(side):
            self._handler.ended(side, [])

    def asks(self, *messages: Message | bytes, compressed: bool = False) -> None:
        """Give the handler the whole request."""
        self.says(CLIENT, *messages, compressed=compressed)

    def answers(
        self,
        *messages: Message | bytes,
        status: StatusCode = StatusCode.OK,
        compressed: bool = False,
    ) -> None:
        """Give the handler the whole response, or the end of one."""
        self.says(RUNTIME, *messages, compressed=compressed, end=False)
        if self._is_told(RUNTIME):
            self._handler.ended(RUNTIME, [(b"grpc-status", b"%d" % status)])

    def limit_exceeded(self, side: Side, reason: str = "held_limit") -> None:
        if self._is_told(side):
            self._handler.limit_exceeded(side, reason, "more than 1 byte would be held")

    def close(self) -> None:
        """Close the call: it was reset, or its end has been delivered."""
        if not self.is_closed and self.hold is not None:
            self.is_closed = True
            self._handler.closed()

    async def has_done(self, count: int) -> None:
        """Wait until so many commands have been given."""
        while len(self.done) < count:
            self._more.clear()
            await self._more.wait()

    def forget(self) -> None:
        """Delete the commands recorded so far."""
        self.done.clear()

    @property
    def _handler(self) -> Any:
        assert self.hold is not None
        return self.hold.handler

    def _is_told(self, side: Side) -> bool:
        return self.hold is not None and self._sides[side].held and not self.is_closed

    # Commands.

    def send(self, stream: HeldStream, side: Side, message: bytes) -> None:
        flag, length = struct.unpack(">BI", message[:5])
        assert len(message) == 5 + length
        if self._take(side):
            self._do(("send", side, message[5:], *(["compressed"] if flag else [])))

    def drop(self, stream: HeldStream, side: Side) -> None:
        if self._take(side):
            self._do(("drop", side))

    def end(self, stream: HeldStream, side: Side) -> None:
        if self._commanded(side):
            assert self._sides[side].pending == 0
            self._sides[side].held = False
            self._do(("end", side))
            if side is RUNTIME:
                self.close()

    def release(self, stream: HeldStream, side: Side) -> None:
        if self._commanded(side):
            assert self._sides[side].pending == 0
            self._sides[side].held = False
            self._do(("pass on", side))

    def reply(self, stream: HeldStream, code: StatusCode, message: str) -> None:
        assert self._opened
        if not self.is_closed:
            self._do(("answer", code, message))
            self.close()

    def detach(self, stream: HeldStream) -> None:
        assert self._opened
        assert not any(self._commanded(side) for side in Side)
        self.is_closed = True  # as far as the handler is concerned

    def _do(self, command: Done) -> None:
        self.done.append(command)
        self._more.set()

    def _take(self, side: Side) -> bool:
        if not self._commanded(side):
            return False
        assert self._sides[side].pending > 0
        self._sides[side].pending -= 1
        return True

    def _commanded(self, side: Side) -> bool:
        assert self._opened
        return not self.is_closed and self._sides[side].held
