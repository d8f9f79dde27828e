"""What can be wrong with a rule: when it is loaded, and when it is used."""

from typing import Final

REASONS: Final = frozenset(
    {
        "cel",
        "compressed",
        "decode",
        "held_limit",
        "internal",
        "queue",
        "script",
        "timeout",
        "unknown_pod",
        "webhook",
    }
)
"""Why a rule could not be used on a call: a label of a metric, so there are few."""


class RuleError(Exception):
    """A rule that cannot be loaded.

    ``rule`` is its name, ``keys`` the way to what is wrong within the rule's mapping (``("rewrite",
    "request", "image.image")``), ``message`` one line, for CEL with line:column within it.
    """

    def __init__(self, rule: str, keys: tuple[str | int, ...], message: str) -> None:
        super().__init__(f"rule {rule!r}: {'.'.join(map(str, keys))}: {message}")
        self.rule = rule
        self.keys = keys
        self.message = message


class EvaluationError(Exception):
    """A rule that could not be used on a call: its ``on_error`` decides what comes of the call.

    ``reason`` is one of REASONS; ``detail`` says more, in one line.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
