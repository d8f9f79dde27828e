"""A rule, with what its action keeps from call to call: its dice, its places, its hook."""

from typing import Final

from criproxy.enforce.evaluation.concurrency_limit import ConcurrencyLimit
from criproxy.enforce.evaluation.effects import LocalReply
from criproxy.enforce.hooks.hook import Hook
from criproxy.rules.compiled.rule import Rule
from criproxy.rules.sampling import Delay, Fault
from criproxy.wire.grpc import StatusCode

_CANNOT_FAIL: Final = frozenset({"delay", "deny", "limit"})
"""Actions that, once they act, act: no rule behind them is looked at in their stead."""


class ActiveRule:
    """One rule of a Policy. ``delay``, ``fault``, ``limit``, ``hook`` are its action's, or None."""

    __slots__ = (
        "acts_after",
        "acts_before",
        "delay",
        "ends_the_walk",
        "fault",
        "hook",
        "limit",
        "limits_pods",
        "rehearsals",
        "rule",
        "wants_request",
    )

    acts_before: bool
    """Whether it has something to do before the runtime is asked."""
    acts_after: bool
    """Whether it has something to do once the runtime answers."""
    wants_request: bool
    """Whether it is to see the request, or to keep it from going on."""
    ends_the_walk: bool
    """Whether no later rule is looked at, for certain, where this one matches."""
    limits_pods: bool
    """Whether it limits each pod's calls."""
    rehearsals: int
    """How many answers of its hook are waited for in dry-run."""

    def __init__(
        self, rule: Rule, hook: Hook | None, now: float, earlier: "ActiveRule | None"
    ) -> None:
        """``earlier`` is the actor of that name before a reload; ``now`` is when rules are loaded.

        A rule that the reload left as it was goes on where it stood: those in flight keep their
        places, and a fault's times and time are not given anew.
        """
        self.rule = rule
        self.hook = hook
        self.rehearsals = 0
        self._look()
        if earlier is not None and earlier.rule.spec == rule.spec:
            self.delay: Delay | None = earlier.delay
            self.fault: Fault | None = earlier.fault
            self.limit: ConcurrencyLimit | None = earlier.limit
            return
        spec = rule.spec
        self.delay = Delay(spec.delay) if spec.delay is not None else None
        self.fault = Fault(spec.fault) if spec.fault is not None else None
        self.limit = ConcurrencyLimit(spec.limit) if spec.limit is not None else None
        if self.fault is not None:
            self.fault.started(now)

    def _look(self) -> None:
        """Work out once what is asked for each call."""
        rule, spec, hook = self.rule, self.rule.spec, self.hook
        self.acts_after = rule.touches_response if hook is None else hook.has_response
        if spec.delay is not None:
            self.acts_before = spec.delay.when == "before"
        elif spec.fault is not None:
            self.acts_before = not self.acts_after
        elif hook is not None:
            self.acts_before = hook.has_request
        else:
            self.acts_before = bool(spec.deny or spec.limit or rule.touches_request)
        self.wants_request = self.acts_before or hook is not None or rule.touches_request
        self.ends_the_walk = not rule.goes_on and not rule.dry_run and rule.action in _CANNOT_FAIL
        self.limits_pods = spec.limit is not None and spec.limit.per == "pod"

    def rehearsed(self) -> None:
        """Take notice that one of the answers has come, or will not."""
        self.rehearsals -= 1

    @property
    def refusal(self) -> str:
        """What a call is told that is denied without a message."""
        return f"denied by rule {self.rule.name}"

    def answer(self) -> LocalReply:
        """Return what a call is answered that the rule denies or fails."""
        deny, fault = self.rule.spec.deny, self.rule.spec.fault
        if deny is not None:
            return LocalReply(StatusCode[deny.code], deny.message or self.refusal)
        assert fault is not None
        assert fault.code is not None
        message = fault.message or f"fault injected by rule {self.rule.name}"
        return LocalReply(StatusCode[fault.code], message)
