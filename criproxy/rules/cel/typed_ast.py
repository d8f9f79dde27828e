"""The typed syntax tree of a CEL expression: the type and the location of each part.

The type of a whole literal is imprecise: ``{"image": "x", "n": 1}`` is a map of dyn. The parts are
decoded from the checked expression that CEL serializes (cel-spec, ``cel/expr/checked.proto`` and
``syntax.proto``), for which the package has no message classes. Each level is decoded on first use;
mostly only the first one is needed.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final, cast

_Fields = dict[int, list[int | bytes]]

_ANY_VALUE: Final = 2
_EXPRESSION, _TYPES, _SOURCE = 4, 3, 5
_LINE_ENDS, _POSITIONS = 3, 4
_ID, _CONSTANT, _IDENTIFIER, _SELECT, _CALL, _LIST, _STRUCT, _COMPREHENSION = range(2, 10)
_TEXT: Final = 6

_PRIMITIVES: Final = ("dyn", "bool", "int", "uint", "double", "string", "bytes")
_WELL_KNOWN: Final = ("dyn", "dyn", "timestamp", "duration")


@dataclass(frozen=True, slots=True)
class CelType:
    """A CEL type: its name, the full name of a message, and the parameters of a list or a map."""

    name: str
    parameters: tuple["CelType", ...] = ()

    def __str__(self) -> str:
        return self.name + (f"({', '.join(map(str, self.parameters))})" if self.parameters else "")


DYN: Final = CelType("dyn")
"""A type that is known only when the expression is evaluated."""


class TypedAst:
    """A checked expression."""

    def __init__(self, serialized: bytes) -> None:
        """``serialized`` is a ``cel.expr.CheckedExpr`` in a protobuf Any."""
        checked = _fields(_only(_fields(serialized), _ANY_VALUE))
        source = _fields(_only(checked, _SOURCE))
        self._kinds = {key: value for key, value in _pairs(checked[_TYPES]) if value}
        self._positions = dict(_pairs(source[_POSITIONS]))
        self._line_ends = list(_packed(source[_LINE_ENDS]))
        self.root = AstNode(self, _fields(_only(checked, _EXPRESSION)))

    def kind(self, number: int) -> CelType:
        """Return the type of the node with an id."""
        return _kind(cast(bytes, self._kinds.get(number, b"")))

    def position(self, number: int) -> int:
        """Return the offset of the node with an id, in characters; of a selection, its dot."""
        return cast(int, self._positions.get(number, 0) or 0)

    def location(self, number: int) -> str:
        """Return the location of the node with an id: line:column, both from 1."""
        position = self.position(number)
        line = bisect_left(self._line_ends, position + 1)
        start = self._line_ends[line - 1] if line else 0
        return f"{line + 1}:{position - start + 1}"


class AstNode:
    """A node of a checked expression."""

    def __init__(self, tree: TypedAst, fields: _Fields) -> None:
        self._tree = tree
        self._fields = fields
        self._number = cast(int, fields[_ID][0]) if fields[_ID] else 0

    @property
    def kind(self) -> CelType:
        """The node's type."""
        return self._tree.kind(self._number)

    @property
    def position(self) -> int:
        """The node's offset in the source, in characters."""
        return self._tree.position(self._number)

    @property
    def location(self) -> str:
        """The node's location: line:column."""
        return self._tree.location(self._number)

    @property
    def text(self) -> str | None:
        """The value of a string literal, otherwise None."""
        for constant in self._messages(_CONSTANT):
            for value in constant[_TEXT]:
                return cast(bytes, value).decode()
        return None

    @cached_property
    def elements(self) -> "list[AstNode] | None":
        """The elements of a list literal, otherwise None."""
        for each in self._messages(_LIST):
            return self._nodes(each[1])
        return None

    @cached_property
    def entries(self) -> "list[tuple[AstNode, AstNode]] | None":
        """The keys and values of a map literal, otherwise None."""
        for struct in self._messages(_STRUCT):
            if not struct[1]:  # the name of a message literal
                entries = [_fields(cast(bytes, entry)) for entry in struct[2]]
                return [(*self._nodes(each[3]), *self._nodes(each[4])) for each in entries]  # type: ignore[misc]  # one of each
        return None

    @cached_property
    def branches(self) -> "list[AstNode] | None":
        """The operands ``a`` and ``b`` of ``condition ? a : b``, otherwise None."""
        function, arguments = self.call or ("", [])
        return arguments[1:] if function == "_?_:_" else None

    @property
    def call(self) -> "tuple[str, list[AstNode]] | None":
        """The function of a call and its arguments, a target first, otherwise None."""
        for call in self._messages(_CALL):
            return _only(call, 2).decode(), self._nodes(call[1] + call[3])
        return None

    @property
    def identifier(self) -> str | None:
        """The name of a variable, otherwise None."""
        for identifier in self._messages(_IDENTIFIER):
            return _only(identifier, 1).decode()
        return None

    @property
    def selected(self) -> "tuple[AstNode, str] | None":
        """The operand and the field of ``operand.field``, otherwise None, also in ``has()``."""
        for select in self._messages(_SELECT):
            if not select[3]:  # test_only
                return self._nodes(select[1])[0], _only(select, 2).decode()
        return None

    @property
    def selection(self) -> "tuple[CelType, str] | None":
        """The type and the field of ``message.field``, otherwise None, also in ``has()``."""
        return None if (found := self.selected) is None else (found[0].kind, found[1])

    def walk(self) -> "Iterator[AstNode]":
        """Yield this node and all nodes below it."""
        yield self
        within = [call[1] + call[3] for call in self._messages(_CALL)]
        within += [select[1] for select in self._messages(_SELECT)]
        within += [elements[1] for elements in self._messages(_LIST)]
        for struct in self._messages(_STRUCT):
            entries = [_fields(cast(bytes, entry)) for entry in struct[2]]
            within += [entry[3] + entry[4] for entry in entries]
        for comprehension in self._messages(_COMPREHENSION):
            within += [comprehension[number] for number in (2, 4, 5, 6, 7)]
        for nodes in within:
            for each in self._nodes(nodes):
                yield from each.walk()

    def _messages(self, number: int) -> list[_Fields]:
        return [_fields(cast(bytes, each)) for each in self._fields[number]]

    def _nodes(self, values: list[int | bytes]) -> "list[AstNode]":
        return [AstNode(self._tree, _fields(cast(bytes, each))) for each in values]


def _kind(data: bytes) -> CelType:
    for number, values in _fields(data).items():
        value = values[0]
        if isinstance(value, bytes):
            return _composed(number, value)
        names = {2: ("null",), 3: _PRIMITIVES, 5: _WELL_KNOWN}.get(number, ())
        return CelType(names[value]) if value < len(names) else DYN
    return DYN


def _composed(number: int, value: bytes) -> CelType:
    if number == 9:
        return CelType(value.decode())
    if number == 11:
        return CelType("type")
    if number in (6, 7):  # list_type, map_type
        inner = _fields(value)
        count = number - 5
        return CelType(
            ("list", "map")[count - 1],
            tuple(_kind(_only(inner, each)) for each in range(1, count + 1)),
        )
    return DYN


# The wire format of protobuf, as far as it is needed
# ---------------------------------------------------


def _fields(data: bytes) -> _Fields:
    """Return a message's fields by number. Raises IndexError for a truncated message."""
    found: _Fields = defaultdict(list)
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        value: int | bytes
        if wire_type == 0:
            value, at = _varint(data, at)
        else:
            size, at = _varint(data, at) if wire_type == 2 else (8 if wire_type == 1 else 4, at)
            value, at = data[at : at + size], at + size
        found[number].append(value)
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _only(fields: _Fields, number: int) -> bytes:
    return cast(bytes, fields[number][0]) if fields[number] else b""


def _pairs(entries: list[int | bytes]) -> list[tuple[int, int | bytes | None]]:
    """Return a map's keys and values, None for a value that is absent because it is the default."""
    found = []
    for entry in entries:
        fields = _fields(cast(bytes, entry))
        key = cast(int, fields[1][0]) if fields[1] else 0
        found.append((key, fields[2][0] if fields[2] else None))
    return found


def _packed(values: list[int | bytes]) -> list[int]:
    found = []
    for value in values:
        if isinstance(value, int):
            found.append(value)
            continue
        at = 0
        while at < len(value):
            each, at = _varint(value, at)
            found.append(each)
    return found
