"""Evaluates the rules for one call: which of them match, and their effects.

Rules are evaluated in order; the first that matches acts and ends the evaluation, unless it has
``continue`` or is in dry-run. A rule that fails and lets the call pass counts as one that does not
match. Later rules see the request with the changes of the earlier ones. When the runtime responds,
the rules that matched and act on responses are applied in the same order.

This module does not know streams: changes are noted on the held message, and a reply in the
runtime's place is raised as LocalReply.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

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

if TYPE_CHECKING:  # importing expressions costs memory that is not paid for without rules
    from criproxy.enforce.evaluation.match_plan import Batch, Candidates, MatchCandidate

T = TypeVar("T")


class MessageFilter(Protocol):
    """Applies a listener's profile to messages. Both methods raise ProfileDenial to deny the
    call."""

    filters_request: bool
    hides_failures: bool
    """Whether the text of a failed call may be about pods that the client may not see."""

    def request(self, message: Message) -> Message:
        """Return a copy of a request, restricted to what may be asked."""

    def response(self, message: Message) -> Message | None:
        """Return a copy of a response with what the client may see; None if that is nothing."""


class RuleEvaluation:
    """Evaluates the rules of one call: :meth:`request` once, then :meth:`response` for each
    response message and for the end."""

    def __init__(
        self,
        resources: Resources,
        executor: EffectExecutor,
        facts: Facts,
        candidates: "Candidates | None",
        message_filter: MessageFilter | None = None,
    ) -> None:
        """``facts`` are without the request; ``candidates`` is None where there are no rules.

        ``message_filter`` is applied to the request before all rules, and to the response after
        them. Messages that it cannot read are not forwarded.
        """
        self.message_filter = message_filter
        self._resources = resources
        self._executor = executor
        self._facts = facts
        self._candidates = candidates
        self._request: HeldMessage | None = None
        self._matched: list[ActiveRule] = []
        self._response_began = False
        self._forwarded = 0
        """Response messages that have been forwarded."""

    @property
    def acts_on_response(self) -> bool:
        """Whether a rule that has matched, or the message filter, acts on the response."""
        return self.message_filter is not None or any(
            active.acts_on_response for active in self._matched
        )

    def request(self, request: HeldMessage) -> Steps[None]:
        """Evaluate the rules for a request before it is forwarded.

        Raises LocalReply if it is not to be forwarded.
        """
        self._request = request
        if self.message_filter is not None and self.message_filter.filters_request:
            visible_request = yield from self._filtered(request, self.message_filter.request)
            yield from self._replace(request, visible_request)
        if self._candidates is not None:
            yield from self._evaluate(self._candidates, request)

    def response(
        self, response: HeldMessage | None, *, last: bool, ok: bool
    ) -> Steps[TruncateStream | None]:
        """Apply the rules to the runtime's next message; None where there are no more messages.

        ``last``: the call ends here; ``ok``: it has not failed. Sets ``response.dropped`` if the
        message is not to be forwarded. Returns TruncateStream if the stream is to end after the
        message. Raises LocalReply if the call is to end at once.
        """
        truncation: TruncateStream | None = None
        for active in self._matched:
            if not active.acts_on_response:
                continue
            try:
                effect = yield from self._act_on_response(active, response, last, ok)
            except Exception as error:
                self._executor.rule_failed(active, error)
                continue
            truncation = truncation or effect
            if response is not None and response.dropped:
                break
        if self.message_filter is not None and response is not None and not response.dropped:
            visible = yield from self._filtered(response, self.message_filter.response)
            if visible is None:
                response.dropped = True
            else:
                yield from self._replace(response, visible)
        self._response_began = True
        if response is not None and not response.dropped:
            self._forwarded += 1
        return truncation

    def response_not_held(self, error: EvaluationError) -> None:
        """Fail the rules that would act on the response, which is not held any more.

        Raises LocalReply if that fails the call.
        """
        for active in self._matched:
            if active.acts_on_response:
                self._executor.rule_failed(active, error)
        if self.message_filter is not None:
            raise _unreadable_reply(error)

    def _filtered(self, held: HeldMessage, apply: Callable[[Message], T]) -> Steps[T]:
        """Apply a method of the message filter. Raises LocalReply where that is not possible."""
        try:
            message = yield from held.message()
            return (yield from self._resources.message_executor.run(held.size, apply, message))
        except ProfileDenial as denial:
            raise self._executor.deny_by_profile(denial) from denial
        except EvaluationError as error:
            raise _unreadable_reply(error) from error

    def _replace(self, held: HeldMessage, visible: Message) -> Steps[None]:
        """Replace a message by what the message filter has made of it."""
        try:
            yield from held.replace(visible)
        except EvaluationError as error:
            raise _unreadable_reply(error) from error

    def _evaluate(self, candidates: "Candidates", request: HeldMessage) -> Steps[None]:
        """Evaluate the rules in order, up to the one that ends the evaluation."""
        counts = self._resources.counts
        first, last = 0, False
        while not last:
            batch = yield from self._next_batch(candidates, first)
            facts, last = self._facts, batch.last
            for candidate in batch.candidates:
                position = candidate.position
                candidates.count_unknown_pods(counts, batch, first, position)
                first = position + 1
                if self._is_at_hand(candidate, request):
                    matches = self._condition_holds(candidate.active)
                else:
                    matches = yield from self._matches(candidate, request)
                if matches and (yield from self._ends_evaluation(candidate, request)):
                    return
                if self._facts is not facts:  # others may match now
                    last = False
                    break
            else:
                candidates.count_unknown_pods(counts, batch, first)

    def _is_at_hand(self, candidate: "MatchCandidate", request: HeldMessage) -> bool:
        """Return whether a rule's condition is all that is left to evaluate, without waiting.

        Most rules that do not match are of this kind, which spares them a generator each.
        """
        return not (
            candidate.matches
            or candidate.error is not None
            or self._facts.request is None
            or request.size > LARGE
        )

    def _condition_holds(self, active: ActiveRule) -> bool:
        try:
            return active.rule.condition_holds(self._facts)
        except Exception as error:
            self._executor.rule_failed(active, error)
            return False

    def _next_batch(self, candidates: "Candidates", first: int) -> Steps["Batch"]:
        """Return the rules from a position on that may act on the request as it is now."""
        early = candidates.early(first)
        if early.candidates or early.last:
            return early
        try:
            facts = yield from self._facts_with_request()
        except Exception:  # each of the rules fails with it when it is evaluated
            return candidates.unread(first)
        return candidates.all(facts, first)

    def _matches(self, candidate: "MatchCandidate", request: HeldMessage) -> Steps[bool]:
        """Return whether a rule matches; one that fails, and lets the call pass, does not."""
        if candidate.matches and candidate.error is None:
            return True
        holds = candidate.active.rule.condition_holds
        try:
            if candidate.error is not None:
                raise candidate.error
            facts = yield from self._facts_with_request()
            return (yield from self._resources.message_executor.run(request.size, holds, facts))
        except Exception as error:
            self._executor.rule_failed(candidate.active, error)
            return False

    def _ends_evaluation(self, candidate: "MatchCandidate", request: HeldMessage) -> Steps[bool]:
        """Have a rule that matches act; return whether no later rule is evaluated."""
        active = candidate.active
        rule = active.rule
        try:
            self._resources.counts.count_match(rule.name, rule.action, rule.dry_run)
            self._executor.metadata_added(active, candidate.metadata)
            yield from self._act_on_request(active, request)
        except Exception as error:
            self._executor.rule_failed(active, error)
            return False
        self._matched.append(active)
        return not rule.continues and not rule.dry_run

    def _facts_with_request(self) -> Steps[Facts]:
        """Return the facts with the request, which is decoded at the first call."""
        if self._facts.request is None and self._request is not None:
            message = yield from self._request.message()
            pod = container = image = None
            if self._candidates is not None and self._candidates.plan.needs_pods:
                cache, trusted = self._resources.pod_cache, self._facts.caller.kubelet
                pod, container = cache.find(self._facts.method_name, message, trusted)
                image = cache.image(message, container, trusted)
            self._facts = self._facts.with_request(message, pod, container, image)
        return self._facts

    # Before the request is forwarded.

    def _act_on_request(self, active: ActiveRule, request: HeldMessage) -> Steps[None]:
        if not active.acts_on_request:
            return
        effect = yield from self._request_effect(active, request)
        if effect is not None:
            yield from self._executor.execute(active, effect, request, self._facts, "request")
            if request.decoded is not self._facts.request:
                facts = self._facts
                self._facts = facts.with_request(
                    request.decoded, facts.pod, facts.container, facts.image
                )

    def _request_effect(self, active: ActiveRule, request: HeldMessage) -> Steps[Effect | None]:
        match active.rule.action:
            case "delay":
                return _wait(active)
            case "fault":
                return self._fault_effect(active)
            case "deny":
                return active.local_reply()
        if active.limit is not None:
            if active.limits_pods:
                yield from self._facts_with_request()
            return AcquireSlot(active.limit)
        facts = yield from self._facts_with_request()
        if active.rule.action == "hook":
            return CallHook()
        rewrite = active.rule.rewrite_request
        if request.size <= LARGE:
            after = rewrite(facts)
        else:
            after = yield from self._resources.message_executor.run(request.size, rewrite, facts)
        return None if after is facts.request else ReplaceMessage(after)

    # When the runtime responds.

    def _act_on_response(
        self, active: ActiveRule, response: HeldMessage | None, last: bool, ok: bool
    ) -> Steps[TruncateStream | None]:
        effect = yield from self._response_effect(active, response, last, ok)
        if isinstance(effect, TruncateStream) and not active.rule.dry_run:
            self._executor.record_action(active)
            return effect
        if effect is not None:
            yield from self._executor.execute(active, effect, response, self._facts, "response")
        return None

    def _response_effect(
        self, active: ActiveRule, response: HeldMessage | None, last: bool, ok: bool
    ) -> Steps[Effect | None]:
        if active.delay is not None:
            return None if self._response_began else _wait(active)
        fault = active.rule.spec.fault
        if fault is not None and fault.cut_after is not None:
            return self._truncation(active, fault.cut_after, response)
        if fault is not None and fault.drop is None:
            return self._fault_effect(active) if last and ok else None
        if response is None or not ok:
            return None
        return (yield from self._message_effect(active, response))

    def _message_effect(self, active: ActiveRule, response: HeldMessage) -> Steps[Effect | None]:
        message = yield from response.message()
        try:
            facts = yield from self._facts_with_request()
        except EvaluationError:  # the rule's expressions may do without the request
            facts = self._facts
        if active.hook is not None:
            return CallHook()
        run = self._resources.message_executor.run
        if active.fault is not None:
            drops = yield from run(response.size, active.rule.drops, facts, message)
            return DropMessage() if drops and self._strikes(active) else None
        after = yield from run(response.size, active.rule.rewrite_response, facts, message)
        return None if after is message else ReplaceMessage(after)

    def _truncation(
        self, active: ActiveRule, after: int, response: HeldMessage | None
    ) -> Effect | None:
        if after == 0:  # no message is forwarded: the reply stands for all of them
            return None if self._response_began else self._fault_effect(active)
        if response is None or self._forwarded + 1 != after or not self._strikes(active):
            return None
        return TruncateStream(active.local_reply())

    def _fault_effect(self, active: ActiveRule) -> LocalReply | Hang | None:
        if not self._strikes(active):
            return None
        fault = active.rule.spec.fault
        return Hang() if fault is not None and fault.hang else active.local_reply()

    def _strikes(self, active: ActiveRule) -> bool:
        return active.fault is not None and active.fault.occurs(self._resources.clock())


def _unreadable_reply(error: EvaluationError) -> LocalReply:
    """Return the reply to a call with a message that the message filter cannot read."""
    code = StatusCode.RESOURCE_EXHAUSTED if error.reason == "held_limit" else StatusCode.INTERNAL
    return LocalReply(code, f"criproxy: not shown at a listener with a profile: {error.detail}")


def _wait(active: ActiveRule) -> Wait | None:
    seconds = active.delay.draw() if active.delay is not None else 0.0
    return Wait(seconds) if seconds > 0 else None
