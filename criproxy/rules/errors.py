"""Errors of rules, when they are loaded and when they are evaluated."""

from collections.abc import Mapping
from typing import Final

UNKNOWN_POD: Final = "unknown_pod"
"""The reason of a failure that fails no call: the pod of a call is often not known."""

REASONS: Final[Mapping[str, str]] = {
    "cel": "A CEL expression could not be evaluated: a missing key, a division by zero.",
    "compressed": "The message is compressed with an unknown encoding.",
    "decode": "The message is not one of the method's.",
    "held_limit": "The call's messages exceed `limits.held_stream`, its connection's exceed "
    "`limits.held_connection`, or all held messages exceed `limits.held`.",
    "held_time": "A message was not complete within `limits.held_time`.",
    "internal": "An error in criproxy; the log contains the traceback.",
    "queue": "No place was available within a `limit`; the call ends with RESOURCE_EXHAUSTED.",
    "script": "The script raised an exception or gave an invalid answer.",
    "timeout": "The hook did not answer in time.",
    UNKNOWN_POD: "`where` needs a pod or container that is not known. The expression counts as "
    "false, and the call does not fail.",
    "unknown_runtime": "The name of an image has no registry, and the runtime has not answered "
    "Version yet, which decides how it reads such names; see `images.short_names`.",
    "webhook": "The webhook could not be reached or gave an invalid answer.",
}
"""The reasons for which a rule could not be applied to a call, as in the metrics' label."""


class RuleError(Exception):
    """A rule that cannot be loaded.

    ``rule`` is its name, ``keys`` the path within the rule's mapping (``("rewrite", "request",
    "image.image")``), ``message`` one line, for CEL with line:column within the expression.
    """

    def __init__(self, rule: str, keys: tuple[str | int, ...], message: str) -> None:
        super().__init__(f"rule {rule!r}: {'.'.join(map(str, keys))}: {message}")
        self.rule = rule
        self.keys = keys
        self.message = message


class EvaluationError(Exception):
    """A rule that could not be applied to a call, which continues as its ``on_error`` says.

    ``reason`` is one of REASONS; ``detail`` is one line.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
