"""Fifty concurrent calls on one connection, and how they end where a rule matches some of them.

An action is described by how a matching call differs from the same call without rules.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import grpc
from google.protobuf.message import Message

from criproxy.cri.messages import request_class, response_class
from criproxy.cri.methods import METHODS
from criproxy.enforce.hooks.hook import Hook
from tests.support.cri_peers import (
    ECHO,
    EXEC,
    PULL,
    STREAM,
    CallSpec,
    CriPeer,
    ReceivedCall,
    execute,
    pull,
    responses_to,
    start_call,
    stream,
)
from tests.support.grpc_peers import Outcome, Started, channel
from tests.support.rule_relay import Rule, RuleRelay
from tests.support.waiting import LIMIT_SECONDS, wait_until

BATCH: Final = 50
MATCHED: Final = tuple(range(0, BATCH, 3))

WHERE: Final = {
    PULL: 'request.image.image.startsWith("{}/")',
    EXEC: 'request.cmd[0] == "{}"',
    STREAM: 'request.filter.id == "{}"',
}
"""Conditions on the request that match the calls of a group."""

Change = Callable[[Any], None]
"""Changes a message, or a list of messages."""


class Ended(NamedTuple):
    """The end of a call at its client, and the request that its server received, if any."""

    outcome: Outcome
    received: ReceivedCall | None


@dataclass
class Case:
    """An action of a rule, and the expected outcome of the calls that match."""

    action: Rule
    path: str = PULL
    request: Change | None = None
    """The change of the request."""
    response: Change | None = None
    """The change of each message of the response."""
    messages: Callable[[list[bytes]], list[bytes]] = field(default=lambda messages: messages)
    """The messages of the response that arrive."""
    code: grpc.StatusCode = grpc.StatusCode.OK
    details: str | None = ""
    """The status message; None where the client makes it."""
    reaches_server: bool = True
    """Whether the call reaches the server."""
    sends_headers: bool = True
    """Whether the response's headers are certain to arrive, if it reaches the server."""
    headers: tuple[tuple[str, str], ...] = ()
    """Metadata added to the request's."""
    hangs: bool = False
    """Whether it gets no response; the client cancels it."""
    pad: int = 0
    """Bytes of padding in the requests."""
    size: int = 10
    """Bytes of the responses."""
    matched_by: Sequence[str] = ("request", "metadata")
    max_in_flight: int = len(MATCHED)
    """The number of matching calls that may be at the server at a time."""

    def rule(self, matched_by: str, group: str = "match", name: str = "it") -> Rule:
        """Return a rule for the calls of a group; ``matched_by``: ``request`` or ``metadata``."""
        of = WHERE[self.path] if matched_by == "request" else 'metadata["x-group"] == "{}"'
        methods = [self.path.rpartition("/")[2]]
        return {
            "name": name,
            "match": {"methods": methods, "where": of.format(group)},
            **self.action,
        }

    def ask(
        self,
        group: str,
        *,
        pad: int | None = None,
        size: int | None = None,
        timeout: float = LIMIT_SECONDS,
    ) -> CallSpec:
        """A call of a group."""
        filling = self.pad if pad is None else pad
        more: dict[str, Any] = {
            "group": group,
            "size": self.size if size is None else size,
            "timeout": timeout,
        }
        if self.path == PULL:
            return pull(f"{group}/" + "i" * filling, **more)
        if self.path == STREAM:
            return stream(group, **more, messages=6)
        return execute(group, "c" * filling, **more)

    def batch(self) -> list[CallSpec]:
        """Return calls of which a third match and a third are other calls of the same method."""
        match = self.ask("match")
        kinds = others()
        return [
            (match, self.ask("other"), kinds[number // 3 % len(kinds)])[number % 3]
            for number in range(BATCH)
        ]

    def expected(self, without: Ended) -> Ended:
        """Return how a matching call is to end, given how it ends without rules."""
        outcome, received = without
        assert received is not None
        made = received
        if self.request is not None:
            kind = request_class(METHODS[self.path])
            made = received._replace(requests=(_changed(received.requests[0], kind, self.request),))
        if self.headers:
            metadata = tuple(sorted((*received.metadata, *self.headers)))
            made = made._replace(metadata=metadata)
        trailing, initial = outcome.trailing, outcome.initial
        if self.headers and self.reaches_server:
            echoed = tuple(each for each in made.metadata if each[0].startswith("x-"))
            initial = tuple(sorted((*echoed, ("x-all", repr(sorted(made.metadata))))))
            trailing = echoed
        messages = outcome.messages
        if self.request is not None:
            messages = tuple(
                responses_to(self.path, made.requests[0], int(dict(made.metadata)["x-size"]), 6)
            )
        if self.response is not None:
            kind = response_class(METHODS[self.path])
            messages = tuple(_changed(each, kind, self.response) for each in messages)
        messages = tuple(self.messages(list(messages)))
        if self.code is not grpc.StatusCode.OK:
            trailing = ()
            if not self.reaches_server:
                initial = ()
            if self.path != STREAM:
                messages = ()
        if not self.reaches_server:
            messages = ()
        details = self.details
        ended = Outcome(self.code, details or "", messages, initial, trailing)
        return Ended(ended, made if self.reaches_server else None)


def others() -> list[CallSpec]:
    """Return calls of all kinds that no rule matches."""
    return [
        stream("other", messages=20, size=3000),
        execute("other", "c" * 100_000, size=200_000),
        CallSpec(ECHO, tuple(bytes([number]) * 1000 for number in range(30))),
        CallSpec("/runtime.v1.RuntimeService/Status", (b"\x08\x01",)),
        execute("fails", fails="NOT_FOUND"),
        CallSpec("/runtime.v1.RuntimeService/GetContainerEvents", (b"",), messages=0),
        pull("other/b", size=0),
    ]


def _changed(message: bytes, kind: type[Message], change: Change) -> bytes:
    changed = kind.FromString(message)
    change(changed)
    return changed.SerializeToString()


def run_batch(
    on: grpc.Channel,
    peer: CriPeer,
    batch: Sequence[CallSpec],
    arriving: int,
    *,
    before: Callable[[list[Started]], object] = lambda calls: None,
    after: Callable[[list[Started]], object] = lambda calls: None,
    **options: Any,
) -> list[Ended]:
    """Start all calls; let the server respond when ``arriving`` calls have reached it.

    ``before`` is called with the calls before the server may respond, ``after`` as soon as it may.
    """
    peer.clear()
    peer.gate.clear()
    calls = [start_call(on, ask, number, **options) for number, ask in enumerate(batch)]
    wait_until(lambda: len(peer.received) == arriving, f"{arriving} calls at the server")
    before(calls)
    peer.gate.set()
    after(calls)
    outcomes = [call.outcome() for call in calls]
    return [
        Ended(outcome, peer.received.get(str(number))) for number, outcome in enumerate(outcomes)
    ]


def check_action(
    relay: RuleRelay,
    peer: CriPeer,
    case: Case,
    matched_by: str,
    hooks: Mapping[str, Hook] | None = None,
    **options: Any,
) -> list[Ended]:
    """Compare fifty calls under the rule of a case with the same calls without rules."""
    batch = case.batch()
    without = _without_rules(relay, peer, batch, **options)
    relay.load(case.rule(matched_by), hooks=hooks)

    def cancel_hanging(calls: list[Started]) -> None:
        if case.hangs:
            relay.wait_for_waiting_calls(len(MATCHED))
            for number in MATCHED:
                calls[number].call.cancel()

    arriving = (
        BATCH - len(MATCHED) + (min(case.max_in_flight, len(MATCHED)) if case.reaches_server else 0)
    )
    with channel(relay.path) as one:
        ended = run_batch(one, peer, batch, arriving, after=cancel_hanging, **options)
        for number, (got, plain) in enumerate(zip(ended, without, strict=True)):
            if number in MATCHED:
                assert_expected(case, got, plain)
            else:
                assert_unchanged(got, plain)
        assert peer.peak_in_flight.get("match", 0) <= case.max_in_flight
        relay.assert_restored(relay.pairs[-1])
        _is_usable(one, peer)
        relay.assert_restored(relay.pairs[-1])
        assert len(relay.pairs) == len(relay.recorder.closed) + 1
    assert not relay.recorder.stopped
    return ended


_known: dict[object, list[Ended]] = {}


def _without_rules(
    relay: RuleRelay, peer: CriPeer, batch: list[CallSpec], **options: Any
) -> list[Ended]:
    """Return how calls end on a relay without rules, which is the same each time."""
    key = (*batch, *options.items())
    if key not in _known:
        with channel(relay.path) as one:
            _known[key] = run_batch(one, peer, batch, BATCH, **options)
        relay.recorder.all_closed()
    return _known[key]


def _is_usable(on: grpc.Channel, peer: CriPeer) -> None:
    """Assert that more bytes than the windows pass in each direction."""
    calls = [
        start_call(on, execute("more", "c" * 300_000, size=300_000), f"m{n}") for n in range(8)
    ]
    for call in calls:
        outcome = call.outcome()
        assert outcome.code is grpc.StatusCode.OK
        assert len(outcome.messages[0]) > 300_000


def assert_expected(case: Case, got: Ended, without: Ended) -> None:
    """Assert that a matching call ended as the case expects."""
    expected = case.expected(without)
    if case.details is None:
        got = got._replace(outcome=got.outcome._replace(details=""))
    if not case.sends_headers:
        got, expected = (
            each._replace(outcome=each.outcome._replace(initial=())) for each in (got, expected)
        )
    assert _sorted(got) == _sorted(expected)


def assert_unchanged(got: Ended, without: Ended) -> None:
    """Assert that a call ended with the same bytes as without rules."""
    assert _sorted(got) == _sorted(without)


def _sorted(ended: Ended) -> Ended:
    """Sort the metadata by name: the order of different names has no meaning."""
    outcome, received = ended
    outcome = outcome._replace(
        initial=tuple(sorted(outcome.initial)), trailing=tuple(sorted(outcome.trailing))
    )
    if received is not None:
        received = received._replace(metadata=tuple(sorted(received.metadata)))
    return Ended(outcome, received)
