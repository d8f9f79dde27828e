"""Counters of rule matches, rule failures and denied calls, for the metrics and for /rules."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from criproxy.cri.naming import MethodName
from criproxy.peers.peer import Connection
from criproxy.wire.reading.calls import Call

DENIALS: Final[Mapping[str, str]] = {
    "method": "The profile does not contain the method.",
    "unknown_method": "The CRI does not contain the method, or the path has another form.",
    "namespace": "The pod is in a namespace that the profile does not contain.",
    "own_pod": "The pod is not the caller's own, or the caller runs in no known pod.",
    "unknown_pod": "No known pod or container has the id.",
    "caller": "`allow` does not admit the caller.",
    "rule": "A rule with `deny`, or its hook, denied the call.",
}
"""The values of the metric label ``reason`` of denied calls, with their descriptions."""


_GROUPS: Final = 256
"""Groups of rules whose failures are counted together, before they are added up: a few are in
force, and each load of rules makes others."""


@dataclass(frozen=True, slots=True, eq=False)
class RuleNames:
    """Names of rules that fail together, as often as each other."""

    names: tuple[str, ...]


class Counts:
    """The counters. They outlive the rules: a reload does not reset them."""

    def __init__(self) -> None:
        self.matches: Counter[tuple[str, str, str]] = Counter()
        """By rule, action and mode (``enforce`` or ``dry-run``)."""
        # One attribute, so that another thread reads both as they belong together.
        self._failures = _Failures(Counter(), Counter())
        self.denied: Counter[tuple[str, str, str]] = Counter()
        """By listener, method (as a metric's label) and reason."""

    def count_match(self, rule: str, action: str, dry_run: bool) -> None:
        """Count a call that a rule matched."""
        self.matches[rule, action, "dry-run" if dry_run else "enforce"] += 1

    def count_denial(self, listener: str, method: str, reason: str) -> None:
        """Count a denied call."""
        self.denied[listener, method, reason] += 1

    def count_failure(self, rule: str, reason: str) -> None:
        """Count a rule whose evaluation or action failed."""
        self._failures.single[rule, reason] += 1

    def count_failures(self, rules: RuleNames, reason: str) -> None:
        """Count many rules whose evaluation failed, at the cost of one."""
        groups = self._failures.groups
        if len(groups) >= _GROUPS and (rules, reason) not in groups:
            self._failures = _Failures(self._failures.sum(), Counter())
        self._failures.groups[rules, reason] += 1

    @property
    def errors(self) -> Counter[tuple[str, str]]:
        """Failures by rule and reason, on any thread."""
        return self._failures.sum()


class _Failures(NamedTuple):
    """Failures by rule and reason, and by groups of rules and reason."""

    single: Counter[tuple[str, str]]
    groups: Counter[tuple[RuleNames, str]]

    def sum(self) -> Counter[tuple[str, str]]:
        """Return the failures of each rule."""
        total = self.single.copy()
        for (rules, reason), count in self.groups.copy().items():
            for name in rules.names:
                total[name, reason] += count
        return total


def record_denial(
    counts: Counts, connection: Connection, name: MethodName, call: Call | None, reason: str
) -> None:
    """Count a denied call, and set the reason on the call."""
    counts.count_denial(connection.listener, name.method_label, reason)
    if call is not None:
        call.denied = reason
