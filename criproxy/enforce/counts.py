"""How often rules matched and failed, and calls were denied.

Plain numbers, for metrics and for the list of rules.
"""

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
"""Why calls are denied: the values of a metric's label, and what they mean."""


class Counts:
    """Outlives the rules that it counts: a reload goes on counting where the last ones stopped."""

    def __init__(self) -> None:
        self.matches: Counter[tuple[str, str, str]] = Counter()
        """By rule, action and mode (``enforce`` or ``dry-run``)."""
        self.errors: Counter[tuple[str, str]] = Counter()
        """By rule and reason."""
        self.denied: Counter[tuple[str, str, str]] = Counter()
        """By listener, method (as a metric's label) and reason."""

    def matched(self, rule: str, action: str, dry_run: bool) -> None:
        """Count a call that a rule matched."""
        self.matches[rule, action, "dry-run" if dry_run else "enforce"] += 1

    def deny(self, listener: str, method: str, reason: str) -> None:
        """Count a call that was denied."""
        self.denied[listener, method, reason] += 1

    def failed(self, rule: str, reason: str) -> None:
        """Count a rule that could not be evaluated, or not be carried out."""
        self.errors[rule, reason] += 1


def note_denial(
    counts: Counts, connection: Connection, named: MethodName, call: Call | None, reason: str
) -> None:
    """Count a call that is denied, and note with the call why."""
    counts.deny(connection.listener, named.method_label, reason)
    if call is not None:
        call.denied = reason
