"""Counters of rule matches, rule failures and denied calls, for the metrics and for /rules."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

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


class Counts:
    """The counters. They outlive the rules: a reload does not reset them."""

    def __init__(self) -> None:
        self.matches: Counter[tuple[str, str, str]] = Counter()
        """By rule, action and mode (``enforce`` or ``dry-run``)."""
        self.errors: Counter[tuple[str, str]] = Counter()
        """By rule and reason."""
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
        self.errors[rule, reason] += 1


def record_denial(
    counts: Counts, connection: Connection, name: MethodName, call: Call | None, reason: str
) -> None:
    """Count a denied call, and set the reason on the call."""
    counts.count_denial(connection.listener, name.method_label, reason)
    if call is not None:
        call.denied = reason
