"""What rules would make of a call: each of them, and why; the messages before and after.

What the daemon leaves to chance happens here: a fault strikes, whatever its percentage. Nothing
waits, and a webhook or script is asked only if that is wanted.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from google.protobuf.message import Message
from msgspec.structs import replace as with_

from criproxy.cli.rules_test.call_file import CallFileEntry
from criproxy.cri.naming import matches
from criproxy.enforce.hooks.hook import Hook, HookDenial
from criproxy.rules.compiled.rule import Rule
from criproxy.rules.compiled.ruleset import RuleSet, compile_rules
from criproxy.rules.errors import EvaluationError
from criproxy.rules.facts import Facts
from criproxy.rules.spec import DelaySpec, FaultSpec, MatchSpec

ACTS: Final = "acts"
DRY: Final = "would act"
PASSES: Final = "no"
FAILS: Final = "fails"
UNREACHED: Final = "not reached"


@dataclass(frozen=True, slots=True)
class Step:
    """What became of one rule. ``outcome`` is one of the words above."""

    rule: Rule
    outcome: str
    why: str


@dataclass(slots=True)
class Simulation:
    """What became of a call."""

    call: CallFileEntry
    request: Message
    """What the runtime is asked."""
    responses: list[Message]
    """What the client is answered."""
    steps: list[Step] = field(default_factory=list)
    answer: str = ""
    """The status that the client gets in the runtime's place; empty for the runtime's own."""
    asked: bool = True
    """Whether the runtime is asked."""
    metadata: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Headers that are added."""

    @property
    def failed(self) -> bool:
        """Whether a rule could not be told, or not be carried out."""
        return any(step.outcome == FAILS for step in self.steps)


def simulate(ruleset: RuleSet, hooks: Mapping[str, Hook], call: CallFileEntry) -> Simulation:
    """Lead a call through the rules. Hooks that are not in ``hooks`` are not asked."""
    assert call.facts.request is not None
    rehearsal = Simulation(call, call.facts.request, list(call.responses))
    _Rehearser(ruleset, hooks, rehearsal).run()
    return rehearsal


class _Rehearser:
    def __init__(self, ruleset: RuleSet, hooks: Mapping[str, Hook], rehearsal: Simulation) -> None:
        self._ruleset = ruleset
        self._hooks = hooks
        self._result = rehearsal
        self._facts = rehearsal.call.facts
        self._acting: list[Rule] = []

    def run(self) -> None:
        plan = self._ruleset.plan(self._result.call.method.path.encode())
        planned = () if plan is None else plan.rules
        last: Rule | None = None
        for rule in self._ruleset.rules:
            if rule not in planned:
                self._step(rule, PASSES, _why_not_for(rule, self._facts))
            elif last is not None:
                self._step(rule, UNREACHED, f"{last.name} is the last to act")
            elif self._request(rule):
                last = rule
        if self._result.asked:
            for rule in self._acting:
                self._response(rule)

    def _step(self, rule: Rule, outcome: str, why: str) -> None:
        self._result.steps.append(Step(rule, outcome, why))

    def _request(self, rule: Rule) -> bool:
        """Take a rule's turn before the runtime is asked; tell whether it was the last."""
        try:
            if not rule.matches(self._facts):
                self._step(rule, PASSES, _why_not(rule, self._facts))
                return False
            if rule.dry_run:
                self._step(rule, DRY, described(rule))
                return False
            self._before(rule)
        except (EvaluationError, HookDenial) as error:
            return self._failed(rule, error)
        self._step(rule, ACTS, described(rule))
        self._acting.append(rule)
        return not rule.goes_on or not self._result.asked

    def _response(self, rule: Rule) -> None:
        """Have a rule that has acted do what it does once the runtime answers."""
        try:
            self._after(rule)
        except (EvaluationError, HookDenial) as error:
            self._failed(rule, error, asked=True)

    def _failed(self, rule: Rule, error: EvaluationError | HookDenial, asked: bool = False) -> bool:
        """Take what came of a rule instead; tell whether the call ends with that.

        ``asked`` tells that the runtime was asked before.
        """
        if isinstance(error, HookDenial):
            self._step(rule, ACTS, "hook: denies")
            message = error.message or f"denied by rule {rule.name}"
            self._answer(f"{error.code.name}: {message}", asked)
            return True
        if error.reason == "unknown_pod":
            self._step(rule, PASSES, f"where: false, {error.detail}")
            return False
        self._step(rule, FAILS, f"{error}; on_error: {'fail' if rule.fails else 'pass'}")
        if rule.fails and not rule.dry_run:
            self._answer(f"INTERNAL: criproxy: rule {rule.name}: {error.detail}", asked)
        return rule.fails and not rule.dry_run

    def _answer(self, answer: str, asked: bool = False) -> None:
        self._result.answer = answer
        self._result.asked = asked

    def _before(self, rule: Rule) -> None:
        spec, fault = rule.spec, rule.spec.fault
        if spec.deny is not None:
            self._answer(f"{spec.deny.code}: {spec.deny.message or f'denied by rule {rule.name}'}")
        elif fault is not None and _strikes_before(fault):
            self._answer(_fault(rule, fault))
        elif spec.hook is not None:
            self._change_request(self._ask(rule, self._result.request, "request"))
        elif spec.rewrite is not None or spec.rewrite_images is not None:
            self._result.metadata += rule.metadata(self._facts)
            self._change_request(rule.rewrite_request(self._facts))

    def _change_request(self, request: Message) -> None:
        self._result.request = request
        self._facts = replace(self._facts, request=request)

    def _after(self, rule: Rule) -> None:
        result, fault = self._result, rule.spec.fault
        if fault is not None and fault.cut_after is not None:
            if len(result.responses) >= fault.cut_after:
                del result.responses[fault.cut_after :]
                self._answer(_fault(rule, fault), asked=True)
        elif fault is not None and fault.drop is not None:
            kept = [each for each in result.responses if not rule.drops(self._facts, each)]
            result.responses = kept
        elif fault is not None:
            result.responses.clear()
            self._answer(_fault(rule, fault), asked=True)
        elif rule.spec.hook is not None:
            asked = [self._ask(rule, each, "response") for each in result.responses]
            result.responses = asked
        elif rule.touches_response:
            facts = self._facts
            result.responses = [rule.rewrite_response(facts, each) for each in result.responses]

    def _ask(self, rule: Rule, message: Message, half: str) -> Message:
        hook = self._hooks.get(rule.name)
        if hook is None or not (hook.has_request if half == "request" else hook.has_response):
            return message
        ask = hook.request if half == "request" else hook.response

        async def within() -> Message:
            async with asyncio.timeout(hook.timeout):
                return await ask(message, self._facts)

        try:
            return asyncio.run(within())
        except TimeoutError as error:
            raise EvaluationError("timeout", f"no answer within {hook.timeout:g} s") from error


def _strikes_before(fault: FaultSpec) -> bool:
    return fault.when == "before" and fault.drop is None and fault.cut_after is None


def _fault(rule: Rule, fault: FaultSpec) -> str:
    if fault.hang:
        return "none: it hangs until its deadline, or until the client goes"
    return f"{fault.code}: {fault.message or f'fault injected by rule {rule.name}'}"


def _why_not_for(rule: Rule, facts: Facts) -> str:
    """Say why a rule is not for a method."""
    if any(matches(glob, facts.named) for glob in rule.spec.match.methods):
        return f"{rule.action}: nothing to do in {facts.named.method}"
    return f"methods: {', '.join(rule.spec.match.methods)}"


def _why_not(rule: Rule, facts: Facts) -> str:
    """Say which part of a rule's match does not hold: each is asked alone."""
    match = rule.spec.match
    caller = facts.caller
    said = {
        "listeners": f"{facts.listener} is none of {match.listeners}",
        "callers": f"uid {caller.uid}, gid {caller.gid}, executable {caller.executable}, "
        f"unit {caller.unit}, {'' if caller.kubelet else 'not '}the kubelet",
        "where": f"{match.where} is false",
    }
    for key, why in said.items():
        value = getattr(match, key)
        if value is not None:
            alone = with_(rule.spec, match=MatchSpec(methods=match.methods, **{key: value}))
            with contextlib.suppress(EvaluationError):
                if not compile_rules([alone], False).rules[0].matches(facts):
                    return f"{key}: {why}"
    return "match"


def described(rule: Rule) -> str:
    """Say in a few words what a rule does."""
    spec = rule.spec
    if spec.delay is not None:
        return f"delay: {_delay(spec.delay)}"
    if spec.fault is not None:
        return f"fault: {_chances(spec.fault)}"
    if spec.deny is not None:
        return f"deny: {spec.deny.code}"
    if spec.hook is not None:
        return f"hook: {spec.hook.script or spec.hook.url}"
    if spec.limit is not None:
        per = f" per {spec.limit.per}" if spec.limit.per else ""
        return f"limit: {spec.limit.in_flight} in flight{per}"
    return rule.action


def _delay(delay: DelaySpec) -> str:
    if delay.percentiles is not None:
        time = ", ".join(f"{name} {each:g}s" for name, each in delay.percentiles.items())
    else:
        time = f"{delay.fixed or 0:g}s" + (f" ± {delay.jitter:g}s" if delay.jitter else "")
    return f"{time}, {delay.when}, {delay.percentage:g} % of calls"


def _chances(fault: FaultSpec) -> str:
    kind = fault.code or ("hang" if fault.hang else "drop")
    after = f" after {fault.cut_after} messages" if fault.cut_after is not None else ""
    times = f", {fault.times} times" if fault.times is not None else ""
    until = f", for {fault.for_:g}s" if fault.for_ is not None else ""
    when = fault.when if fault.drop is None and fault.cut_after is None else "in the answer"
    return f"{kind}{after}, {when}, {fault.percentage:g} % of calls{times}{until}"
