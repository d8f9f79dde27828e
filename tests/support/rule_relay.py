"""A relay with rules on real sockets, whose connections a test can inspect."""

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
from google.protobuf.message import Message

from criproxy.concurrency.steps import LargeMessageExecutor
from criproxy.concurrency.tasks import Tasks
from criproxy.enforce.counts import Counts
from criproxy.enforce.hooks.hook import Hook
from criproxy.enforce.policies.rule_policy import RulePolicy
from criproxy.enforce.resources import Resources
from criproxy.relay import listener
from criproxy.relay.connections import split
from criproxy.relay.connections.pair import Pair
from criproxy.relay.connections.split import Split
from criproxy.rules.compiled.ruleset import compile_rules
from criproxy.rules.facts import Facts
from criproxy.rules.pod_cache import PodCache
from criproxy.wire.intercept.held_bytes import HeldBytesBudget
from criproxy.wire.reading.connection import ConnectionReader, Side
from tests.support.held import Written, specs
from tests.support.relaying import Relay
from tests.support.waiting import wait_until

T = TypeVar("T")
Rule = dict[str, Any]

_ALL_SERVED = ConnectionReader().flow(Side.CLIENT).last_served


class RuleRelay(Relay):
    """A relay with the rules that :meth:`load` puts in force."""

    def __init__(
        self,
        directory: Path,
        runtime: Path,
        *,
        budget: HeldBytesBudget | None = None,
        held_limit: int = 1 << 30,
        **more: Any,
    ) -> None:
        super().__init__(
            directory, runtime, budget=budget or HeldBytesBudget(1 << 30, 1 << 30), **more
        )
        self.log = Written()
        self.counts = Counts()
        self.pairs: list[Pair | Split] = []
        """The connections, in the order in which they were opened."""
        self._resources = Resources(
            pod_cache=PodCache(),
            counts=self.counts,
            tasks=Tasks(lambda name, error: self.crashes.append(error)),
            log=self.log,
            clock=time.perf_counter,
            held_limit=held_limit,
            message_executor=LargeMessageExecutor(),
        )
        self._policy: RulePolicy | None = None

    def load(
        self, *rules: Rule, hooks: Mapping[str, Hook] | None = None, dry_run: bool = False
    ) -> None:
        """Put rules in force as a reload does; without arguments, remove all rules."""
        ruleset = compile_rules(specs(rules), dry_run)

        def swap() -> None:
            previous = self._policy
            self._policy = (
                RulePolicy(ruleset, self._resources, hooks or {}, previous) if rules else None
            )
            self.active_policy.policy = self._policy

        self.call(swap)

    def evaluate(self, function: Callable[[], T]) -> T:
        """Call a function on the relay's loop and return its result."""
        results: list[T] = []
        self.call(lambda: results.append(function()))
        return results[0]

    def wait_for_held_streams(self, streams: int) -> None:
        """Wait until a number of streams is held."""
        wait_until(
            lambda: self.evaluate(lambda: self.active_policy.budget.streams) == streams,
            f"{streams} held streams",
            report=lambda: f"there are {self.active_policy.budget.streams}",
        )

    def wait_for_waiting_calls(self, calls: int) -> None:
        """Wait until rules keep a number of calls waiting."""
        begun = self.recorder.begun
        wait_until(
            lambda: sum(call.waiting_since is not None for call in begun) == calls,
            f"{calls} calls that wait",
        )

    def assert_nothing_held(self) -> None:
        """Wait until nothing is held and no call waits; assert that no handler failed."""
        budget = self.active_policy.budget
        wait_until(
            lambda: self.evaluate(lambda: (budget.streams, budget.bytes)) == (0, 0),
            "end of all that is held",
            report=lambda: f"{budget.streams} streams, {budget.bytes} bytes",
        )
        assert not self.log.of("handling failed")
        assert not self.crashes, self.crashes
        assert all(call.waiting_since is None for call in self.recorder.ended)

    def assert_restored(self, pair: Pair | Split) -> None:
        """Assert that a connection is open, and its windows and ledgers are as without rules."""
        self.assert_nothing_held()

        def look() -> AssertionError | bool:
            if pair.has_calls or _is_within_frame(pair.reader):
                return False
            try:
                _check(pair)
            except AssertionError as error:
                return error
            return True

        result = wait_until(lambda: self.evaluate(look), "end of what is handled")
        if isinstance(result, AssertionError):
            raise result

    def __enter__(self) -> "RuleRelay":
        self._patch = pytest.MonkeyPatch()

        def keeping(kind: type[Pair] | type[Split]) -> Callable[..., Pair | Split]:
            def make(*arguments: Any) -> Pair | Split:
                self.pairs.append(kind(*arguments))
                return self.pairs[-1]

            return make

        self._patch.setattr(listener, "Pair", keeping(Pair))
        self._patch.setattr(split, "Split", keeping(Split))
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        try:
            self.call(lambda: self._policy.close() if self._policy is not None else None)
            super().__exit__(*exception)
        finally:
            self._patch.undo()
            self._resources.message_executor.close()


def goaway_received(pair: Pair | Split) -> bool:
    """Return whether the runtime has sent GOAWAY on a connection."""
    return pair.reader.flow(Side.CLIENT).last_served != _ALL_SERVED


def _is_within_frame(reader: ConnectionReader) -> bool:
    """Whether a frame is incomplete, whose bytes count in one of the windows already."""
    return reader.reading and any(reader.to_boundary(side) != 0 for side in Side)


def _check(pair: Pair | Split) -> None:
    reader = pair.reader
    assert reader.reading
    assert not goaway_received(pair)
    interceptor = pair.interceptor if isinstance(pair, Pair) else pair._interceptor
    if interceptor is None:
        return
    core = interceptor._core
    assert core is not None
    if core.raw:
        return
    queues = core.queues
    assert queues is not None
    assert core.held == 0
    for queue in queues:
        assert (queue.queued, queue.has_queued_frames, queue.blocked) == (0, False, False)
        assert not queue.has_output
        assert not queue.has_deferred_blocks
        assert queue.window.window >= 0
        assert queue.window.ledger >= 0  # what was owed has been granted
    requests, responses = queues
    view = requests.window.window + requests.window.ledger
    assert reader.flow(Side.CLIENT).window == view
    assert reader.flow(Side.RUNTIME).window == responses.window.window


class GateHook:
    """A hook that keeps calls waiting until ``opened`` is set."""

    has_deny = False
    timeout = 60.0

    def __init__(self, phase: str = "request") -> None:
        """``phase`` is what it is called with: ``request`` or ``response``."""
        self.has_request = phase == "request"
        self.has_response = phase == "response"
        self.opened = asyncio.Event()

    def start(self, log: object) -> None: ...

    def stop(self) -> None: ...

    async def request(self, message: Message, facts: Facts) -> Message:
        await self.opened.wait()
        return message

    async def response(self, message: Message, facts: Facts) -> Message:
        await self.opened.wait()
        return message


def gate_rule(*methods: str, name: str = "gate", **more: Any) -> Rule:
    """Return a rule whose hook is a GateHook."""
    return {"name": name, "match": {"methods": list(methods)}, "hook": {"script": "-"}, **more}
