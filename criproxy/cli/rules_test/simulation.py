"""Simulates a rule evaluation: each rule's outcome with its reason, and the changed messages.

Percentages are ignored: a fault always occurs. Nothing waits, and a webhook or script is called
only if it is passed in.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from google.protobuf.message import Message
from msgspec.structs import replace as replace_fields

from criproxy.cli.rules_test.call_file import CallFileEntry
from criproxy.cri.naming import matches
from criproxy.enforce.hooks.hook import Hook, HookDenial, call_hook
from criproxy.rules.compiled.rule import Rule
from criproxy.rules.compiled.ruleset import RuleSet, compile_rules
from criproxy.rules.errors import EvaluationError
from criproxy.rules.facts import Facts
from criproxy.rules.spec import DelaySpec, FaultSpec, MatchSpec
from criproxy.wire.hpack.decoder import Header

ACTS: Final = "acts"
DRY: Final = "would act"
PASSES: Final = "no"
FAILS: Final = "fails"
UNREACHED: Final = "not reached"


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of one rule: one of the constants above, with its reason."""

    rule: Rule
    outcome: str
    why: str


@dataclass(slots=True)
class Simulation:
    """The outcome of a call."""

    call: CallFileEntry
    request: Message
    """The request that the runtime receives."""
    responses: list[Message]
    """The responses that the client receives."""
    steps: list[Step] = field(default_factory=list)
    answer: str = ""
    """The status of a local reply; empty for the runtime's own status."""
    asked: bool = True
    """Whether the runtime receives the call."""
    metadata: list[Header] = field(default_factory=list)
    """Metadata that rules add to the request."""

    @property
    def failed(self) -> bool:
        """Whether a rule could not be evaluated or carried out."""
        return any(step.outcome == FAILS for step in self.steps)


def simulate(ruleset: RuleSet, hooks: Mapping[str, Hook], call: CallFileEntry) -> Simulation:
    """Evaluate the rules for a call. Hooks that are not in ``hooks`` are not called."""
    assert call.facts.request is not None
    simulation = Simulation(call, call.facts.request, list(call.responses))
    _Simulator(ruleset, hooks, simulation).run()
    return simulation


class _Simulator:
    def __init__(self, ruleset: RuleSet, hooks: Mapping[str, Hook], simulation: Simulation) -> None:
        self._ruleset = ruleset
        self._hooks = hooks
        self._result = simulation
        self._facts = simulation.call.facts
        self._acted: list[Rule] = []

    def run(self) -> None:
        plan = self._ruleset.rules_for(self._result.call.method.path.encode())
        planned = () if plan is None else plan.rules
        last: Rule | None = None
        for rule in self._ruleset.rules:
            if rule not in planned:
                self._add_step(rule, PASSES, _why_not_planned(rule, self._facts))
            elif last is not None:
                self._add_step(rule, UNREACHED, f"{last.name} is the last to act")
            elif self._evaluate(rule):
                last = rule
        if self._result.asked:
            for rule in self._acted:
                self._finish(rule)

    def _add_step(self, rule: Rule, outcome: str, why: str) -> None:
        self._result.steps.append(Step(rule, outcome, why))

    def _evaluate(self, rule: Rule) -> bool:
        """Evaluate a rule for the request; return whether it ends the evaluation."""
        try:
            if not rule.matches(self._facts):
                self._add_step(rule, PASSES, _why_not(rule, self._facts))
                return False
            if rule.dry_run:
                self._add_step(rule, DRY, describe_action(rule))
                return False
            self._apply_to_request(rule)
        except (EvaluationError, HookDenial) as error:
            return self._failed(rule, error)
        self._add_step(rule, ACTS, describe_action(rule))
        self._acted.append(rule)
        return not rule.continues or not self._result.asked

    def _finish(self, rule: Rule) -> None:
        """Apply a rule that has acted to the responses."""
        try:
            self._apply_to_responses(rule)
        except (EvaluationError, HookDenial) as error:
            self._failed(rule, error, asked=True)

    def _failed(self, rule: Rule, error: EvaluationError | HookDenial, asked: bool = False) -> bool:
        """Record a rule's failure or denial; return whether it ends the call.

        ``asked`` is whether the runtime has received the call.
        """
        if isinstance(error, HookDenial):
            self._add_step(rule, ACTS, "hook: denies")
            message = error.message or f"denied by rule {rule.name}"
            self._answer(f"{error.code.name}: {message}", asked)
            return True
        if error.reason == "unknown_pod":
            self._add_step(rule, PASSES, f"where: false, {error.detail}")
            return False
        self._add_step(rule, FAILS, f"{error}; on_error: {'fail' if rule.fails_closed else 'pass'}")
        if rule.fails_closed and not rule.dry_run:
            self._answer(f"INTERNAL: criproxy: rule {rule.name}: {error.detail}", asked)
        return rule.fails_closed and not rule.dry_run

    def _answer(self, answer: str, asked: bool = False) -> None:
        self._result.answer = answer
        self._result.asked = asked

    def _apply_to_request(self, rule: Rule) -> None:
        spec, fault = rule.spec, rule.spec.fault
        if spec.deny is not None:
            self._answer(f"{spec.deny.code}: {spec.deny.message or f'denied by rule {rule.name}'}")
        elif fault is not None and _replies_before(fault):
            self._answer(_fault_status(rule, fault))
        elif spec.hook is not None:
            before = self._result.request
            after = self._call_hook(rule, before, "request")
            rule.drop_auth(self._facts, before, after)
            self._change_request(after)
        elif spec.rewrite is not None or spec.rewrite_images is not None:
            self._result.metadata += rule.metadata(self._facts)
            self._change_request(rule.rewrite_request(self._facts))

    def _change_request(self, request: Message) -> None:
        self._result.request = request
        self._facts = replace(self._facts, request=request)

    def _apply_to_responses(self, rule: Rule) -> None:
        result, fault = self._result, rule.spec.fault
        if fault is not None and fault.cut_after is not None:
            if len(result.responses) >= fault.cut_after:
                del result.responses[fault.cut_after :]
                self._answer(_fault_status(rule, fault), asked=True)
        elif fault is not None and fault.drop is not None:
            kept = [each for each in result.responses if not rule.drops(self._facts, each)]
            result.responses = kept
        elif fault is not None:
            result.responses.clear()
            self._answer(_fault_status(rule, fault), asked=True)
        elif rule.spec.hook is not None:
            asked = [self._call_hook(rule, each, "response") for each in result.responses]
            result.responses = asked
        elif rule.touches_response:
            facts = self._facts
            result.responses = [rule.rewrite_response(facts, each) for each in result.responses]

    def _call_hook(
        self, rule: Rule, message: Message, phase: Literal["request", "response"]
    ) -> Message:
        hook, spec = self._hooks.get(rule.name), rule.spec.hook
        if hook is None or not (hook.has_request if phase == "request" else hook.has_response):
            return message
        assert spec is not None

        async def call_and_stop() -> Message:
            try:
                return await call_hook(hook, spec, phase, message, self._facts)
            finally:
                hook.stop()
                await asyncio.sleep(0)  # what is stopped is closed by then

        return asyncio.run(call_and_stop())


def _replies_before(fault: FaultSpec) -> bool:
    return fault.when == "before" and fault.drop is None and fault.cut_after is None


def _fault_status(rule: Rule, fault: FaultSpec) -> str:
    if fault.hang:
        return "none: it hangs until its deadline, or until the client goes"
    return f"{fault.code}: {fault.message or f'fault injected by rule {rule.name}'}"


def _why_not_planned(rule: Rule, facts: Facts) -> str:
    """Return why a rule is not in a method's program."""
    if any(matches(glob, facts.method_name) for glob in rule.spec.match.methods):
        return f"{rule.action}: nothing to do in {facts.method_name.method}"
    return f"methods: {', '.join(rule.spec.match.methods)}"


def _why_not(rule: Rule, facts: Facts) -> str:
    """Return the first key of a rule's match that does not hold, each evaluated alone."""
    match = rule.spec.match
    caller = facts.caller
    reasons = {
        "listeners": f"{facts.listener} is none of {match.listeners}",
        "callers": f"uid {caller.uid}, gid {caller.gid}, executable {caller.executable}, "
        f"unit {caller.unit}, {'' if caller.kubelet else 'not '}the kubelet",
        "where": f"{match.where} is false",
    }
    for key, why in reasons.items():
        value = getattr(match, key)
        if value is not None:
            alone = replace_fields(
                rule.spec, match=MatchSpec(methods=match.methods, **{key: value})
            )
            with contextlib.suppress(EvaluationError):
                if not compile_rules([alone], False).rules[0].matches(facts):
                    return f"{key}: {why}"
    return "match"


def describe_action(rule: Rule) -> str:
    """Return a rule's action in a few words."""
    spec = rule.spec
    if spec.delay is not None:
        return f"delay: {_describe_delay(spec.delay)}"
    if spec.fault is not None:
        return f"fault: {_describe_fault(spec.fault)}"
    if spec.deny is not None:
        return f"deny: {spec.deny.code}"
    if spec.hook is not None:
        return f"hook: {spec.hook.script or spec.hook.url}"
    if spec.limit is not None:
        per = f" per {spec.limit.per}" if spec.limit.per else ""
        return f"limit: {spec.limit.in_flight} in flight{per}"
    return rule.action


def _describe_delay(delay: DelaySpec) -> str:
    if delay.percentiles is not None:
        time = ", ".join(f"{name} {each:g}s" for name, each in delay.percentiles.items())
    else:
        time = f"{delay.fixed or 0:g}s" + (f" ± {delay.jitter:g}s" if delay.jitter else "")
    return f"{time}, {delay.when}, {delay.percentage:g} % of calls"


def _describe_fault(fault: FaultSpec) -> str:
    kind = fault.code or ("hang" if fault.hang else "drop")
    after = f" after {fault.cut_after} messages" if fault.cut_after is not None else ""
    times = f", {fault.times} times" if fault.times is not None else ""
    until = f", for {fault.for_:g}s" if fault.for_ is not None else ""
    when = fault.when if fault.drop is None and fault.cut_after is None else "in the answer"
    return f"{kind}{after}, {when}, {fault.percentage:g} % of calls{times}{until}"
