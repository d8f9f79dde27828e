"""Compilation of a rule's expressions for the messages of one method."""

from dataclasses import dataclass
from typing import Final, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from criproxy.cri.messages import request_class, response_class
from criproxy.cri.methods import Method
from criproxy.rules.cel.expressions import CompileError, Expression, compiled, source_of
from criproxy.rules.cel.typed_ast import CelType
from criproxy.rules.cel.variables import SUBJECTS, VariableTypes
from criproxy.rules.messages.rewriting import AssignmentError, Rewriting
from criproxy.rules.spec import Assignments, CelValue, RuleSpec

_BOOL: Final = CelType("bool")
_STRING: Final = CelType("string")


class MethodCompileError(Exception):
    """An error of a rule for one method: ``keys`` and ``message`` are those of a RuleError."""

    def __init__(self, keys: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.keys = keys
        self.message = message


@dataclass(frozen=True, slots=True)
class MethodProgram:
    """The expressions of a rule, compiled for the calls of one method."""

    where: Expression | None
    metadata: tuple[tuple[str, Expression], ...] = ()
    request: Rewriting | None = None
    response: Rewriting | None = None
    drop: Expression | None = None

    @property
    def names(self) -> frozenset[str]:
        """The variables that the expressions use, except those of ``metadata``."""
        evaluated = (self.where, self.request, self.response, self.drop)
        found = (each.names for each in evaluated if each is not None)
        return frozenset[str]().union(*found)

    @property
    def early_names(self) -> frozenset[str]:
        """The variables that are needed to match a call, and for its response."""
        evaluated = (self.where, self.response, self.drop)
        return frozenset[str]().union(*(each.names for each in evaluated if each is not None))


def compile_for(spec: RuleSpec, method: Method) -> MethodProgram:
    """Compile a rule for a method of the CRI. Raises MethodCompileError."""
    request, response = _descriptor(request_class(method)), _descriptor(response_class(method))
    before = VariableTypes(request.full_name, None, request.file.package)
    after = VariableTypes(request.full_name, response.full_name, request.file.package)
    rewrite, fault = spec.rewrite, spec.fault
    return MethodProgram(
        where=_where(spec, before),
        metadata=_metadata(spec, before),
        request=_rewriting("request", rewrite.request if rewrite else {}, request, before),
        response=_rewriting("response", rewrite.response if rewrite else {}, response, after),
        drop=None
        if fault is None or fault.drop is None
        else _expression(fault.drop, _BOOL, after, ("fault", "drop")),
    )


def _descriptor(kind: type[Message]) -> Descriptor:
    return cast(Descriptor, kind.DESCRIPTOR)


def compile_outside_cri(spec: RuleSpec) -> MethodProgram:
    """Compile a rule for methods outside the CRI. Raises MethodCompileError."""
    return MethodProgram(_where(spec, VariableTypes()), _metadata(spec, VariableTypes()))


def _where(spec: RuleSpec, scope: VariableTypes) -> Expression | None:
    if spec.match.where is None:
        return None
    keys = ("match", "where")
    where = _expression(spec.match.where, _BOOL, scope, keys)
    if spec.rewrite is not None and spec.rewrite.metadata is not None:
        _check_early(where, keys)
    return where


def _metadata(spec: RuleSpec, scope: VariableTypes) -> tuple[tuple[str, Expression], ...]:
    if spec.rewrite is None or spec.rewrite.metadata is None:
        return ()
    found = []
    for name, value in spec.rewrite.metadata.add.items():
        keys = ("rewrite", "metadata", "add", name)
        expression = _expression(value, _STRING, scope, keys)
        _check_early(expression, keys)
        found.append((name, expression))
    return tuple(found)


def _check_early(expression: Expression, keys: tuple[str | int, ...]) -> None:
    if late := sorted(expression.names & SUBJECTS):
        raise MethodCompileError(
            keys,
            f"metadata goes on before the request's message is there, and cannot hang on {late[0]};"
            " take two rules, the one with metadata with continue: true",
        )


def _expression(
    value: CelValue, kind: CelType, scope: VariableTypes, keys: tuple[str | int, ...]
) -> Expression:
    try:
        expression = compiled(source_of(value), scope)
    except CompileError as error:
        raise MethodCompileError(keys, str(error)) from error
    root = expression.tree.root
    if root.kind != kind:
        raise MethodCompileError(keys, f"has to be {kind}, not {root.kind}")
    return expression


def _rewriting(
    which: str, assignments: Assignments, descriptor: Descriptor, scope: VariableTypes
) -> Rewriting | None:
    if not assignments:
        return None
    try:
        return Rewriting(assignments, descriptor, scope)
    except AssignmentError as error:
        raise MethodCompileError(("rewrite", which, error.path), str(error)) from error
