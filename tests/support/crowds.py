"""Fifty calls at once on one connection, and how they end: some are a rule's, the others are not.

A rule's action is told as what it makes of a call that goes its way without it.
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
    Ask,
    Asked,
    CriPeer,
    answers,
    execute,
    make,
    pull,
    stream,
)
from tests.support.grpc_peers import Outcome, channel
from tests.support.ruled import Rule, RuledRelay
from tests.support.waiting import LIMIT_SECONDS, wait_until

CROWD: Final = 50
MATCHED: Final = tuple(range(0, CROWD, 3))

WHERE: Final = {
    PULL: 'request.image.image.startsWith("{}/")',
    EXEC: 'request.cmd[0] == "{}"',
    STREAM: 'request.filter.id == "{}"',
}
"""How the request tells a group's calls."""

Change = Callable[[Any], None]
"""Changes a message, or a list of messages."""


class Ended(NamedTuple):
    """How a call has ended for its client, and what its server got of it, if anything."""

    outcome: Outcome
    asked: Asked | None


@dataclass
class Case:
    """An action, and what comes of the calls that match."""

    action: Rule
    path: str = PULL
    request: Change | None = None
    """What becomes of the request."""
    response: Change | None = None
    """What becomes of each message of the response."""
    messages: Callable[[list[bytes]], list[bytes]] = field(default=lambda messages: messages)
    """Which of them come."""
    code: grpc.StatusCode = grpc.StatusCode.OK
    details: str | None = ""
    """None: the client's own words."""
    asks: bool = True
    """Whether the server is asked."""
    begins: bool = True
    """Whether the response's headers come for certain, where it is asked."""
    headers: tuple[tuple[str, str], ...] = ()
    """What is added to the request's metadata."""
    timeout: float = LIMIT_SECONDS
    pad: int = 0
    """Bytes that the requests have more."""
    size: int = 10
    """Bytes of the responses."""
    matched_by: Sequence[str] = ("request", "metadata")
    at_once: int = len(MATCHED)
    """How many of those that match may be at the server at a time."""

    def rule(self, matched_by: str, group: str = "match", name: str = "it") -> Rule:
        """A rule for the calls of a group, which the ``request`` tells or the ``metadata``."""
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
    ) -> Ask:
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

    def crowd(self) -> list[Ask]:
        """A third match, a third are of the same method, the others are of other kinds."""
        match = self.ask("match", timeout=self.timeout)
        kinds = others()
        return [
            (match, self.ask("other"), kinds[number // 3 % len(kinds)])[number % 3]
            for number in range(CROWD)
        ]

    def expected(self, without: Ended) -> Ended:
        """What a call that matches comes to, by how it ends without rules."""
        outcome, asked = without
        assert asked is not None
        made = asked
        if self.request is not None:
            kind = request_class(METHODS[self.path])
            made = asked._replace(requests=(_changed(asked.requests[0], kind, self.request),))
        if self.headers:
            metadata = tuple(sorted((*asked.metadata, *self.headers)))
            made = made._replace(metadata=metadata)
        trailing, initial = outcome.trailing, outcome.initial
        if self.headers and self.asks:
            echoed = tuple(each for each in made.metadata if each[0].startswith("x-"))
            initial = tuple(sorted((*echoed, ("x-all", repr(sorted(made.metadata))))))
            trailing = echoed
        messages = outcome.messages
        if self.request is not None:
            messages = tuple(
                answers(self.path, made.requests[0], int(dict(made.metadata)["x-size"]), 6)
            )
        if self.response is not None:
            kind = response_class(METHODS[self.path])
            messages = tuple(_changed(each, kind, self.response) for each in messages)
        messages = tuple(self.messages(list(messages)))
        if self.code is not grpc.StatusCode.OK:
            trailing = ()
            if not self.asks:
                initial = ()
            if self.path != STREAM:
                messages = ()
        if not self.asks:
            messages = ()
        details = self.details
        ended = Outcome(self.code, details or "", messages, initial, trailing)
        return Ended(ended, made if self.asks else None)


def others() -> list[Ask]:
    """Calls of all kinds, which no rule is for."""
    return [
        stream("other", messages=20, size=3000),
        execute("other", "c" * 100_000, size=200_000),
        Ask(ECHO, tuple(bytes([number]) * 1000 for number in range(30))),
        Ask("/runtime.v1.RuntimeService/Status", (b"\x08\x01",)),
        execute("fails", fails="NOT_FOUND"),
        Ask("/runtime.v1.RuntimeService/GetContainerEvents", (b"",), messages=0),
        pull("other/b", size=0),
    ]


def _changed(message: bytes, kind: type[Message], change: Change) -> bytes:
    changed = kind.FromString(message)
    change(changed)
    return changed.SerializeToString()


def run(
    on: grpc.Channel,
    peer: CriPeer,
    crowd: Sequence[Ask],
    arriving: int,
    **options: Any,
) -> list[Ended]:
    """Make all calls at once; let the server answer once so many have arrived at it."""
    peer.forget()
    peer.gate.clear()
    calls = [make(on, ask, number, **options) for number, ask in enumerate(crowd)]
    wait_until(lambda: len(peer.asked) == arriving, f"{arriving} calls at the server")
    peer.gate.set()
    outcomes = [call.outcome() for call in calls]
    return [Ended(outcome, peer.asked.get(str(number))) for number, outcome in enumerate(outcomes)]


def check(
    relay: RuledRelay,
    peer: CriPeer,
    case: Case,
    matched_by: str,
    hooks: Mapping[str, Hook] | None = None,
    **options: Any,
) -> list[Ended]:
    """Hold fifty calls under a case's rule against the same without rules."""
    crowd = case.crowd()
    without = _without_rules(relay, peer, crowd, **options)
    relay.load(case.rule(matched_by), hooks=hooks)
    arriving = CROWD - len(MATCHED) + (min(case.at_once, len(MATCHED)) if case.asks else 0)
    with channel(relay.path) as one:
        ended = run(one, peer, crowd, arriving, **options)
        for number, (got, plain) in enumerate(zip(ended, without, strict=True)):
            if number in MATCHED:
                is_as(case, got, plain)
            else:
                is_the_same(got, plain)
        assert peer.most.get("match", 0) <= case.at_once
        relay.is_as_it_was(relay.pairs[-1])
        _is_usable(one, peer)
        relay.is_as_it_was(relay.pairs[-1])
        assert len(relay.pairs) == len(relay.recorder.closed) + 1
    assert not relay.recorder.stopped
    return ended


_known: dict[object, list[Ended]] = {}


def _without_rules(
    relay: RuledRelay, peer: CriPeer, crowd: list[Ask], **options: Any
) -> list[Ended]:
    """How calls end on a relay without rules, which is the same each time."""
    key = (*crowd, *options.items())
    if key not in _known:
        with channel(relay.path) as one:
            _known[key] = run(one, peer, crowd, CROWD, **options)
        relay.recorder.all_closed()
    return _known[key]


def _is_usable(on: grpc.Channel, peer: CriPeer) -> None:
    """See that the windows let as much pass as they did: more than they are, in each direction."""
    calls = [make(on, execute("more", "c" * 300_000, size=300_000), f"m{n}") for n in range(8)]
    for call in calls:
        outcome = call.outcome()
        assert outcome.code is grpc.StatusCode.OK
        assert len(outcome.messages[0]) > 300_000


def is_as(case: Case, got: Ended, without: Ended) -> None:
    """See that a call that matches has ended as the action has it."""
    expected = case.expected(without)
    if case.details is None:
        got = got._replace(outcome=got.outcome._replace(details=""))
    if not case.begins:
        got, expected = (
            each._replace(outcome=each.outcome._replace(initial=())) for each in (got, expected)
        )
    assert _sorted(got) == _sorted(expected)


def is_the_same(got: Ended, without: Ended) -> None:
    """See that a call has ended in every byte as it does without rules."""
    assert _sorted(got) == _sorted(without)


def _sorted(ended: Ended) -> Ended:
    """Metadata without the order of different names, which is of no meaning."""
    outcome, asked = ended
    outcome = outcome._replace(
        initial=tuple(sorted(outcome.initial)), trailing=tuple(sorted(outcome.trailing))
    )
    if asked is not None:
        asked = asked._replace(metadata=tuple(sorted(asked.metadata)))
    return Ended(outcome, asked)
