"""The variables of CEL expressions on calls that a log tells of: those of rules, and the outcome.

A line of the call log says less than a record of the audit log, and neither says what rules know:
labels, annotations and headers. What is not said is no field of a variable, so that an expression
which uses it does not compile.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from criproxy.rules.cel.variables import (
    FACTS,
    PACKAGE,
    VariableTypes,
    message_of,
    no_variables,
)
from criproxy.rules.facts import Facts

if TYPE_CHECKING:  # see criproxy.rules.cel.variables
    from cel_expr_python import cel  # type: ignore[import-untyped]

OUTCOME: Final[Mapping[str, str]] = {
    "code": "The name of the gRPC code with which the call ended; empty if it has not.",
    "duration": "How long the call took, or has run.",
}
"""The descriptions of the variables that rules do not have."""


@dataclass(frozen=True, slots=True)
class LoggedVariableTypes(VariableTypes):
    """The variables of an expression on logged calls.

    ``in_record``: whether it is for records of the audit log alone, which have the messages.
    """

    in_record: bool = False

    def variables(self) -> dict[str, "cel.Type"]:
        """Return the variables and their types."""
        from cel_expr_python import cel

        found = VariableTypes.variables(self)
        del found["metadata"]
        for name, kind in _kinds(self.in_record).items():
            found[name] = cel.Type(f"{PACKAGE}.{kind}")
        return found | {"code": cel.Type.STRING, "duration": cel.Type.DURATION}


@dataclass(frozen=True, slots=True)
class LoggedValues:
    """The values of the variables in one call. ``duration`` is in seconds."""

    facts: Facts
    code: str
    duration: float
    response: Message | None = None

    def activation(self, names: frozenset[str], in_record: bool) -> "cel.Activation":
        """Return the activation for an expression that uses only the variables ``names``."""
        kinds = _kinds(in_record)
        known = {}
        for name in names:
            value: Any
            if name == "duration":
                value = Duration()  # a timedelta is not converted in every environment
                value.FromNanoseconds(round(self.duration * 1e9))
            elif name in ("code", "response"):
                value = getattr(self, name)
            else:
                value = FACTS[name](self.facts)
                value = message_of(kinds[name], value) if name in kinds else value
            if value is not None:
                known[name] = value
        return no_variables(**known)


def _kinds(in_record: bool) -> Mapping[str, str]:
    """Return the message types of variables, by name."""
    caller = "Caller" if in_record else "LoggedCaller"
    return {
        "pod": "LoggedPod",
        "container": "LoggedContainer",
        "image": "Image",
        "caller": caller,
    }
