"""A rule in force, with the run-time state of its action."""

from typing import TYPE_CHECKING, Final

from criproxy.enforce.evaluation.concurrency_limit import ConcurrencyLimit
from criproxy.enforce.evaluation.effects import LocalReply
from criproxy.enforce.hooks.hook import Hook
from criproxy.rules.sampling import Delay, Fault
from criproxy.wire.grpc import StatusCode

if TYPE_CHECKING:  # importing expressions costs memory that is not paid for without rules
    from criproxy.rules.compiled.rule import Rule

_CANNOT_FAIL: Final = frozenset({"delay", "deny", "limit"})
"""Actions that cannot fail, so that no later rule is evaluated in their place."""


class ActiveRule:
    """One rule of a policy. ``delay``, ``fault``, ``limit`` and ``hook`` are its action's state;
    those that do not belong to its action are None."""

    __slots__ = (
        "acts_on_request",
        "acts_on_response",
        "delay",
        "ends_evaluation",
        "fault",
        "hook",
        "limit",
        "limits_pods",
        "needs_request",
        "pending_dry_runs",
        "rule",
    )

    acts_on_request: bool
    """Whether it acts before the runtime gets the request."""
    acts_on_response: bool
    """Whether it acts when the runtime responds."""
    needs_request: bool
    """Whether it reads the request, or keeps it from the runtime for a time."""
    ends_evaluation: bool
    """Whether no later rule is evaluated where this one matches, whatever comes of it."""
    limits_pods: bool
    """Whether it limits the calls of each pod."""
    pending_dry_runs: int
    """Number of dry-run calls of its hook that have not ended."""

    def __init__(
        self, rule: "Rule", hook: Hook | None, now: float, previous: "ActiveRule | None"
    ) -> None:
        """``previous`` has the same name before a reload; ``now`` is when rules are loaded.

        Where the reload leaves the rule's specification unchanged, its state is kept: calls in
        flight keep their slots, and a fault's count and start time do not begin anew.
        """
        self.rule = rule
        self.hook = hook
        self.pending_dry_runs = 0
        self._set_flags()
        if previous is not None and previous.rule.spec == rule.spec:
            self.delay: Delay | None = previous.delay
            self.fault: Fault | None = previous.fault
            self.limit: ConcurrencyLimit | None = previous.limit
            return
        spec = rule.spec
        self.delay = Delay(spec.delay) if spec.delay is not None else None
        self.fault = Fault(spec.fault) if spec.fault is not None else None
        self.limit = ConcurrencyLimit(spec.limit) if spec.limit is not None else None
        if self.fault is not None:
            self.fault.start(now)

    def _set_flags(self) -> None:
        rule, spec, hook = self.rule, self.rule.spec, self.hook
        self.acts_on_response = rule.touches_response if hook is None else hook.has_response
        if spec.delay is not None:
            self.acts_on_request = spec.delay.when == "before"
        elif spec.fault is not None:
            self.acts_on_request = not self.acts_on_response
        elif hook is not None:
            self.acts_on_request = hook.has_request
        else:
            self.acts_on_request = bool(spec.deny or spec.limit or rule.touches_request)
        self.needs_request = self.acts_on_request or hook is not None or rule.touches_request
        self.ends_evaluation = (
            not rule.continues and not rule.dry_run and rule.action in _CANNOT_FAIL
        )
        self.limits_pods = spec.limit is not None and spec.limit.per == "pod"

    @property
    def denial(self) -> str:
        """The status message of a denied call whose rule has no message."""
        return f"denied by rule {self.rule.name}"

    def local_reply(self) -> LocalReply:
        """Return the reply to a call that the rule denies or fails."""
        deny, fault = self.rule.spec.deny, self.rule.spec.fault
        if deny is not None:
            return LocalReply(StatusCode[deny.code], deny.message or self.denial)
        assert fault is not None
        assert fault.code is not None
        message = fault.message or f"fault injected by rule {self.rule.name}"
        return LocalReply(StatusCode[fault.code], message)
