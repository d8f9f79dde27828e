"""Changing a message: fields set to what expressions say, all others left as they came."""

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
    """A field cannot be set like that: ``path`` is the key, and the message one line."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True, slots=True)
class _Assignment:
    path: Path
    expression: Expression | None
    """None clears."""


class Rewriting:
    """Assignments to the fields of one kind of message. ``names`` are the variables they name."""

    def __init__(
        self,
        assignments: Mapping[str, CelValue | None],
        descriptor: Descriptor,
        scope: VariableTypes,
    ) -> None:
        """``assignments`` are CEL by path. Raises AssignmentError."""
        self._assignments = [
            _assignment(path, value, descriptor, scope) for path, value in assignments.items()
        ]
        self.names = frozenset[str]().union(
            *(each.expression.names for each in self._assignments if each.expression)
        )

    def apply(self, message: Message, values: VariableValues) -> Message:
        """Return a changed copy, or the message itself if it is as it is to be.

        All values are taken of the message as it came; then fields are set in order. Raises
        EvaluationError.
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
        return None
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
            return _Assignment(path, None)
        expression = compiled(source_of(value), scope)
    except (PathError, CompileError) as error:
        raise AssignmentError(text, str(error)) from error
    if found := type_mismatch(expression.tree.root, path.target):
        raise AssignmentError(text, f"{found.place}: {found.why}")
    assignment = _Assignment(path, expression)
    _check_constant(assignment)
    return assignment


def _check_constant(assignment: _Assignment) -> None:
    """Refuse now what could not be set in any call: a number out of range."""
    expression = assignment.expression
    if expression is not None and not expression.names:
        try:
            _value(assignment, no_variables())
        except EvaluationError as error:
            text = assignment.path.text
            detail = error.detail.removeprefix(f"{text}: ")
            raise AssignmentError(text, detail) from error
