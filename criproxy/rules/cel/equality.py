"""Equalities that a condition implies, such as ``pod.namespace == "a"``.

A condition that is false because a field differs need not be evaluated: rules are looked up by the
field's value. Only what is certain is recognized: a comparison of a variable, or of a field of one,
with string literals, alone or within ``&&``. CEL's ``&&`` is false if either side is, even if the
other one fails.
"""

from dataclasses import dataclass
from typing import Final

from google.protobuf.descriptor import FieldDescriptor

from criproxy.rules.cel.expressions import Expression
from criproxy.rules.cel.typed_ast import AstNode, CelType
from criproxy.rules.cel.variables import POOL

_STRING: Final = CelType("string")


@dataclass(frozen=True, slots=True)
class Equality:
    """A condition that is false unless a string has one of some values.

    ``path`` is a variable and the names of the fields that lead to the string: ``("pod",
    "namespace")``. ``exact`` is true if the condition holds for all these values.
    """

    path: tuple[str, ...]
    values: frozenset[str]
    exact: bool = True


def equality_of(condition: Expression) -> Equality | None:
    """Return an equality that a condition implies, None if none is recognized."""
    return _equality(condition.tree.root, condition.names)


def _equality(node: AstNode, names: frozenset[str]) -> Equality | None:
    function, arguments = node.call or ("", [])
    if len(arguments) != 2:
        return None
    left, right = arguments
    if function == "_==_":
        return _comparison(left, [right], names) or _comparison(right, [left], names)
    if function == "@in":
        return _comparison(left, right.elements, names)
    one, other = _equality(left, names), _equality(right, names)
    if function == "_&&_":
        implied = one or other
        return None if implied is None else Equality(implied.path, implied.values, exact=False)
    if function == "_||_" and one is not None and other is not None and one.path == other.path:
        return Equality(one.path, one.values | other.values, one.exact and other.exact)
    return None


def _comparison(
    node: AstNode, literals: list[AstNode] | None, names: frozenset[str]
) -> Equality | None:
    if not literals or (path := _path(node)) is None or path[0] not in names:
        return None
    values = [literal.text for literal in literals]
    return (
        Equality(path, frozenset(value for value in values if value is not None))
        if all(value is not None for value in values)
        else None
    )


def _path(node: AstNode) -> tuple[str, ...] | None:
    """Return the path of a string; None for any other expression."""
    fields: list[str] = []
    if node.kind != _STRING:
        return None
    while (selected := node.selected) is not None:
        node, field = selected
        if not _is_plain(node.kind, field):
            return None
        fields.append(field)
    return None if node.identifier is None else (node.identifier, *reversed(fields))


def _is_plain(owner: CelType, name: str) -> bool:
    """Return whether a field is a string or a message, which is empty where it is not set."""
    try:
        field = POOL.FindMessageTypeByName(owner.name).fields_by_name[name]
    except KeyError:  # a map, or a type of CEL's own
        return False
    kinds = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE)
    return field.type in kinds and not field.is_repeated and field.containing_oneof is None
