"""Rewrites messages: sets fields to the values of expressions and leaves all others unchanged."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from criproxy.rules.cel.conversion import converted, type_mismatch
from criproxy.rules.cel.expressions import CompileError, Expression, compiled, source_of
from criproxy.rules.cel.variables import VariableTypes, VariableValues, no_variables
from criproxy.rules.errors import EvaluationError
from criproxy.rules.messages.field_paths import Path, PathError, parse_path
from criproxy.rules.spec import CelValue


class AssignmentError(ValueError):
    """An invalid assignment: ``path`` is its key; the message is one line."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True, slots=True)
class _Assignment:
    path: Path
    expression: Expression | None = None
    """None where the value is the same for all calls."""
    constant: Any = None
    """That value, converted; None clears the field."""


class Rewriting:
    """Assignments to fields of one message type. ``names`` are the variables that they use."""

    def __init__(
        self,
        assignments: Mapping[str, CelValue | None],
        descriptor: Descriptor,
        scope: VariableTypes,
    ) -> None:
        """``assignments`` are CEL expressions by field path. Raises AssignmentError."""
        self._assignments = [
            _assignment(path, value, descriptor, scope) for path, value in assignments.items()
        ]
        self.names = frozenset[str]().union(
            *(each.expression.names for each in self._assignments if each.expression)
        )

    def apply(self, message: Message, values: VariableValues) -> Message:
        """Return a changed copy of a message, or the message itself if nothing changes.

        All expressions are evaluated on the original message; then the fields are set in order.
        Raises EvaluationError.
        """
        activation = values.activation(self.names)
        assigned = [(each.path, _value(each, activation)) for each in self._assignments]
        changed = type(message)()
        changed.CopyFrom(message)
        for path, value in assigned:
            if value is None:
                path.clear(changed)
            else:
                path.set(changed, value)
        return message if changed == message else changed


def _value(assignment: _Assignment, activation: Any) -> Any:
    if assignment.expression is None:
        return assignment.constant
    path = assignment.path
    try:
        value = converted(assignment.expression.evaluate(activation), path.target)
    except EvaluationError as error:
        raise EvaluationError(error.reason, f"{path.text}: {error.detail}") from error
    if value is None and path.appends:
        raise EvaluationError("cel", f"{path.text}: null cannot be appended")
    return value


def _assignment(
    text: str, value: CelValue | None, descriptor: Descriptor, scope: VariableTypes
) -> _Assignment:
    try:
        path = parse_path(text, descriptor)
        if value is None:
            if path.appends:
                raise AssignmentError(text, "null cannot be appended")
            return _Assignment(path)
        expression = compiled(source_of(value), scope)
    except (PathError, CompileError) as error:
        raise AssignmentError(text, str(error)) from error
    if found := type_mismatch(expression.tree.root, path.target):
        raise AssignmentError(text, f"{found.location}: {found.reason}")
    assignment = _Assignment(path, expression)
    return assignment if expression.names else _evaluated(assignment)


def _evaluated(assignment: _Assignment) -> _Assignment:
    """Return an assignment without variables with its value. Raises AssignmentError for one that
    cannot be assigned, such as one out of range."""
    path = assignment.path
    try:
        return _Assignment(path, constant=_value(assignment, no_variables()))
    except EvaluationError as error:
        detail = error.detail.removeprefix(f"{path.text}: ")
        raise AssignmentError(path.text, detail) from error
