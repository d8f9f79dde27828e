"""Values of environment variables as strings, in expressions on either version of the CRI.

In CRI v1 ``KeyValue.value`` is bytes, and ``e.value.contains("x")`` would not compile. So an
expression that uses it is checked against the CRI with a string in that place. Then each selection
of the field is followed by a call of a function that returns its text
(:func:`criproxy.cri.environment.text_of`), and the result is compiled against the real messages.
"""

import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor

from criproxy.cri.environment import text_of
from criproxy.cri.pb import runtime_v1_pb2
from criproxy.rules.cel.typed_ast import CelType, TypedAst
from criproxy.rules.cel.variables import POOL, VariableTypes, new_environment

if TYPE_CHECKING:  # see criproxy.rules.cel.variables
    from cel_expr_python import cel  # type: ignore[import-untyped]

_FIELD: Final = "value"
_OWNER: Final = CelType("runtime.v1.KeyValue")
_FUNCTION: Final = "_text"
_SELECTION: Final = re.compile(rf"\.\s*{_FIELD}")


class TextExpression(NamedTuple):
    """An expression in which values are strings: its syntax tree, and its rewritten source."""

    tree: TypedAst
    source: str


def functions() -> "list[cel.FunctionDecl]":
    """Return what a rewritten expression calls, for the environment that compiles it."""
    from cel_expr_python import cel

    text = cel.Overload(
        "bytes_text",
        return_type=cel.Type.STRING,
        parameters=[cel.Type.BYTES],
        is_member=True,
        impl=text_of,
    )
    return [cel.FunctionDecl(_FUNCTION, [text])]


def with_text_values(source: str, scope: VariableTypes) -> TextExpression | None:
    """Check an expression with strings for values; None if its messages have no values.

    Raises RuntimeError with CEL's message.
    """
    if _FIELD not in source or not any(map(_has_values, (scope.request, scope.response))):
        return None
    tree = TypedAst(_environment(scope).compile(source).serialize())
    ends = set()
    for node in tree.root.walk():
        if node.selection is not None and node.selection == (_OWNER, _FIELD):
            found = _SELECTION.match(source, node.position)
            if found is None:
                return None
            ends.add(found.end())
    for end in sorted(ends, reverse=True):
        source = f"{source[:end]}.{_FUNCTION}(){source[end:]}"
    return TextExpression(tree, source)


@cache  # bounded by the number of the CRI's messages
def _has_values(name: str | None) -> bool:
    return name is not None and _reaches(POOL.FindMessageTypeByName(name), set())


def _reaches(descriptor: Descriptor, seen: set[str]) -> bool:
    if descriptor.full_name == _OWNER.name:
        return True
    if descriptor.full_name in seen:
        return False
    seen.add(descriptor.full_name)
    inner = (field.message_type for field in descriptor.fields)
    return any(_reaches(each, seen) for each in inner if each is not None)


@cache
def _pool() -> Any:
    """Return a descriptor pool in which the value is a string."""
    pool = descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto()
    runtime_v1_pb2.DESCRIPTOR.CopyToProto(file)
    owner = next(each for each in file.message_type if each.name == "KeyValue")
    value = next(each for each in owner.field if each.name == _FIELD)
    value.type = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
    for dependency in file.dependency:
        found = descriptor_pb2.FileDescriptorProto()
        POOL.FindFileByName(dependency).CopyToProto(found)
        pool.Add(found)
    pool.Add(file)
    rules = descriptor_pb2.FileDescriptorProto()
    POOL.FindFileByName("criproxy/rules.proto").CopyToProto(rules)
    pool.Add(rules)
    return pool


@cache  # bounded by the number of the CRI's methods
def _environment(scope: VariableTypes) -> "cel.Env":
    return new_environment(_pool(), scope)
