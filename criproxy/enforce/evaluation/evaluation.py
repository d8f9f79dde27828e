"""One call's way through the rules: which of them match, and what each has to say.

The rules are asked in order; the first that matches acts and ends the walk, unless it says
``continue`` or is in dry-run. One that fails and lets the call pass counts as not having matched.
A later rule sees the request as the earlier ones have left it. Once the runtime answers, the rules
that matched are asked again, in the same order, those that have a say in that.

Nothing here knows of streams: what becomes of a message is noted with it, and an answer in the
runtime's place is raised.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from criproxy.concurrency.steps import LARGE, Steps
from criproxy.enforce.evaluation.active_rule import ActiveRule
from criproxy.enforce.evaluation.effect_executor import EffectExecutor
from criproxy.enforce.evaluation.effects import (
    AcquireSlot,
    CallHook,
    DropMessage,
    Effect,
    Hang,
    LocalReply,
    ProfileDenial,
    ReplaceMessage,
    TruncateStream,
    Wait,
)
from criproxy.enforce.evaluation.payloads import HeldMessage
from criproxy.enforce.resources import Resources
from criproxy.rules.errors import EvaluationError
from criproxy.rules.facts import Facts
from criproxy.wire.grpc import StatusCode
from criproxy.wire.hpack.decoder import Header

T = TypeVar("T")


class MessageFilter(Protocol):
    """What a listener's profile says of a call's messages. Both raise Refused to deny the call."""

    looks_at_request: bool
    hides_failures: bool
    """Whether what the runtime says of a failure may be about what is not to be seen."""

    def request(self, message: Message) -> Message:
        """Return what may be asked: a copy."""

    def response(self, message: Message) -> Message | None:
        """Return what may be seen of a response, a copy; None where nothing is left of it."""


@dataclass(slots=True)
class MatchCandidate:
    """A rule that may act on a call: it matches for certain, or that takes the request to tell."""

    actor: ActiveRule
    certain: bool
    error: Exception | None = None
    """What it failed with already."""
    metadata: list[Header] = field(default_factory=list)
    """What it adds to the request's headers."""

    @property
    def wants_request(self) -> bool:
        """Whether the request is not to go on before the rule has had its turn."""
        return not self.certain or self.error is not None or self.actor.wants_request

    @property
    def denies(self) -> bool:
        """Whether it denies the call, whatever the request is, when it is asked."""
        rule = self.actor.rule
        return self.certain and rule.action == "deny" and not rule.dry_run and self.error is None


class RuleEvaluation:
    """The rules of one call: :meth:`request` once, then :meth:`response` for what comes of it."""

    def __init__(
        self,
        resources: Resources,
        deeds: EffectExecutor,
        facts: Facts,
        candidates: Sequence[MatchCandidate],
        find_pods: bool,
        scope: MessageFilter | None = None,
    ) -> None:
        """``facts`` are without the request; ``find_pods`` tells that some rule asks for pods.

        ``scope`` is asked about the request before all rules, and about what they leave of the
        response. What it cannot look at does not go on.
        """
        self.scope = scope
        self._resources = resources
        self._deeds = deeds
        self._facts = facts
        self._candidates = candidates
        self._find_pods = find_pods
        self._request: HeldMessage | None = None
        self._matched: list[ActiveRule] = []
        self._answering = False
        self._passed = 0

    @property
    def acts_after(self) -> bool:
        """Whether a rule that has matched has a say in the response, or the scope."""
        return self.scope is not None or any(actor.acts_after for actor in self._matched)

    def request(self, request: HeldMessage) -> Steps[None]:
        """Lead the call to where the runtime is asked; ``request`` is what it is to be asked.

        Raises Answer if it is not to be asked.
        """
        self._request = request
        if self.scope is not None and self.scope.looks_at_request:
            request.replace((yield from self._scoped(request, self.scope.request)))
        for candidate in self._candidates:
            actor = candidate.actor
            rule = actor.rule
            try:
                if not (yield from self._matches(candidate, request)):
                    continue
                self._resources.counts.matched(rule.name, rule.action, rule.dry_run)
                self._deeds.added(actor, candidate.metadata)
                yield from self._before(actor, request)
            except Exception as error:
                self._deeds.failed(actor, error)
                continue
            self._matched.append(actor)
            if not rule.goes_on and not rule.dry_run:
                break

    def response(
        self, response: HeldMessage | None, *, last: bool, ok: bool
    ) -> Steps[TruncateStream | None]:
        """Ask what is to become of the runtime's next message; None where no more will come.

        ``last`` tells that the call ends here, ``ok`` that it has not failed. Returns whether the
        stream is to end behind the message, which is ``dropped`` if it is not to go on. Raises
        Answer if the call is to end otherwise at once.
        """
        cut: TruncateStream | None = None
        for actor in self._matched:
            if not actor.acts_after:
                continue
            try:
                verdict = yield from self._after(actor, response, last, ok)
            except Exception as error:
                self._deeds.failed(actor, error)
                continue
            cut = cut or verdict
            if response is not None and response.dropped:
                break
        if self.scope is not None and response is not None and not response.dropped:
            shown = yield from self._scoped(response, self.scope.response)
            if shown is None:
                response.dropped = True
            else:
                response.replace(shown)
        self._answering = True
        if response is not None and not response.dropped:
            self._passed += 1
        return cut

    def unheld(self, error: EvaluationError) -> None:
        """Let those that have a say in the response know why they do not get it.

        Raises Answer if one of them has the call fail for it.
        """
        for actor in self._matched:
            if actor.acts_after:
                self._deeds.failed(actor, error)
        if self.scope is not None:
            raise _unseen(error)

    def _scoped(self, held: HeldMessage, look: Callable[[Message], T]) -> Steps[T]:
        """Have the scope look at a message; whatever keeps it from that fails the call."""
        try:
            message = yield from held.message()
            return (yield from self._resources.workbench.do(held.size, look, message))
        except ProfileDenial as refusal:
            raise self._deeds.refused(refusal) from refusal
        except EvaluationError as error:
            raise _unseen(error) from error

    def _matches(self, candidate: MatchCandidate, request: HeldMessage) -> Steps[bool]:
        if candidate.error is not None:
            raise candidate.error
        if candidate.certain:
            return True
        facts = yield from self._with_request()
        matches = candidate.actor.rule.matches
        if request.size <= LARGE:
            return matches(facts)
        return (yield from self._resources.workbench.do(request.size, matches, facts))

    def _with_request(self) -> Steps[Facts]:
        """Return the facts with the request; it is decoded when they are first asked for."""
        if self._facts.request is None and self._request is not None:
            message = yield from self._request.message()
            pod = container = None
            if self._find_pods:
                pod, container = self._resources.memory.find(self._facts.named, message)
            self._facts = self._facts.having(message, pod, container)
        return self._facts

    # Before the runtime is asked.

    def _before(self, actor: ActiveRule, request: HeldMessage) -> Steps[None]:
        if not actor.acts_before:
            return
        verdict = yield from self._verdict_before(actor, request)
        if verdict is not None:
            yield from self._deeds.carry_out(actor, verdict, request, self._facts, "request")
            if request.decoded is not self._facts.request:
                facts = self._facts
                self._facts = facts.having(request.decoded, facts.pod, facts.container)

    def _verdict_before(self, actor: ActiveRule, request: HeldMessage) -> Steps[Effect | None]:
        match actor.rule.action:
            case "delay":
                return _pause(actor)
            case "fault":
                return self._strike(actor)
            case "deny":
                return actor.answer()
        if actor.limit is not None:
            if actor.limits_pods:
                yield from self._with_request()
            return AcquireSlot(actor.limit)
        facts = yield from self._with_request()
        if actor.rule.action == "hook":
            return CallHook()
        rewrite = actor.rule.rewrite_request
        if request.size <= LARGE:
            after = rewrite(facts)
        else:
            after = yield from self._resources.workbench.do(request.size, rewrite, facts)
        return None if after is facts.request else ReplaceMessage(after)

    # Once the runtime answers.

    def _after(
        self, actor: ActiveRule, response: HeldMessage | None, last: bool, ok: bool
    ) -> Steps[TruncateStream | None]:
        verdict = yield from self._verdict_after(actor, response, last, ok)
        if isinstance(verdict, TruncateStream) and not actor.rule.dry_run:
            self._deeds.acted(actor)
            return verdict
        if verdict is not None:
            yield from self._deeds.carry_out(actor, verdict, response, self._facts, "response")
        return None

    def _verdict_after(
        self, actor: ActiveRule, response: HeldMessage | None, last: bool, ok: bool
    ) -> Steps[Effect | None]:
        if actor.delay is not None:
            return None if self._answering else _pause(actor)
        fault = actor.rule.spec.fault
        if fault is not None and fault.cut_after is not None:
            return self._cut(actor, fault.cut_after, response)
        if fault is not None and fault.drop is None:
            return self._strike(actor) if last and ok else None
        if response is None or not ok:
            return None
        return (yield from self._verdict_on(actor, response))

    def _verdict_on(self, actor: ActiveRule, response: HeldMessage) -> Steps[Effect | None]:
        message = yield from response.message()
        try:
            facts = yield from self._with_request()
        except EvaluationError:  # it is for the rule to tell whether it can do without
            facts = self._facts
        if actor.hook is not None:
            return CallHook()
        do = self._resources.workbench.do
        if actor.fault is not None:
            drops = yield from do(response.size, actor.rule.drops, facts, message)
            return DropMessage() if drops and self._strikes(actor) else None
        after = yield from do(response.size, actor.rule.rewrite_response, facts, message)
        return None if after is message else ReplaceMessage(after)

    def _cut(self, actor: ActiveRule, after: int, response: HeldMessage | None) -> Effect | None:
        if after == 0:  # no message is to pass before: the answer stands in for all of them
            return None if self._answering else self._strike(actor)
        if response is None or self._passed + 1 != after or not self._strikes(actor):
            return None
        return TruncateStream(actor.answer())

    def _strike(self, actor: ActiveRule) -> LocalReply | Hang | None:
        if not self._strikes(actor):
            return None
        fault = actor.rule.spec.fault
        return Hang() if fault is not None and fault.hang else actor.answer()

    def _strikes(self, actor: ActiveRule) -> bool:
        return actor.fault is not None and actor.fault.strikes(self._resources.clock())


def _unseen(error: EvaluationError) -> LocalReply:
    """Return what a call is answered of which a message cannot be looked at."""
    code = StatusCode.RESOURCE_EXHAUSTED if error.reason == "held_limit" else StatusCode.INTERNAL
    return LocalReply(code, f"criproxy: not shown at a listener with a profile: {error.detail}")


def _pause(actor: ActiveRule) -> Wait | None:
    seconds = actor.delay.draw() if actor.delay is not None else 0.0
    return Wait(seconds) if seconds > 0 else None
