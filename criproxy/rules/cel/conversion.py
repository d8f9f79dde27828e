"""Conversion of CEL values to the fields of messages.

The same rules apply at load to the types that CEL's checker reports (:func:`type_mismatch`), and at
run time to values (:func:`converted`):

- a number may be assigned to any numeric or enum field, a string also to an enum field, as a name;
- a string may be assigned to a bytes field, as UTF-8; the text of a value becomes its bytes again;
- a map may be assigned to a message field, with the names of its fields as keys;
- null clears a message field, an element or a key.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from criproxy.cri.environment import bytes_of
from criproxy.cri.messages import is_map
from criproxy.rules.cel.expressions import suggestion
from criproxy.rules.cel.typed_ast import DYN, AstNode, CelType
from criproxy.rules.errors import EvaluationError

_SIGNED_32: Final = range(-(1 << 31), 1 << 31)
_SIGNED_64: Final = range(-(1 << 63), 1 << 63)
_UNSIGNED_32: Final = range(1 << 32)
_UNSIGNED_64: Final = range(1 << 64)

_RANGES: Final[Mapping[int, range]] = {
    FieldDescriptor.CPPTYPE_INT32: _SIGNED_32,
    FieldDescriptor.CPPTYPE_INT64: _SIGNED_64,
    FieldDescriptor.CPPTYPE_UINT32: _UNSIGNED_32,
    FieldDescriptor.CPPTYPE_UINT64: _UNSIGNED_64,
    FieldDescriptor.CPPTYPE_ENUM: _SIGNED_32,
}
_WORDS: Final[Mapping[int, str]] = {
    FieldDescriptor.CPPTYPE_BOOL: "bool",
    FieldDescriptor.CPPTYPE_DOUBLE: "double",
    FieldDescriptor.CPPTYPE_FLOAT: "double",
    FieldDescriptor.CPPTYPE_INT32: "int",
    FieldDescriptor.CPPTYPE_INT64: "int",
    FieldDescriptor.CPPTYPE_UINT32: "uint",
    FieldDescriptor.CPPTYPE_UINT64: "uint",
}
_NUMBERS: Final = frozenset({"int", "uint"})


@dataclass(frozen=True, slots=True)
class AssignmentTarget:
    """A field, or one element of a repeated field, that a value is assigned to."""

    field: FieldDescriptor
    element: bool = False

    @property
    def is_list(self) -> bool:
        """Whether the value is a list."""
        return self.field.is_repeated and not self.element and not self.is_map

    @property
    def is_map(self) -> bool:
        """Whether the value is a map of arbitrary keys."""
        return is_map(self.field) and not self.element

    @property
    def one(self) -> "AssignmentTarget":
        """The target of one element of the list, or of one key of the map."""
        entry = self.field.message_type
        if entry is not None and is_map(self.field):
            return AssignmentTarget(entry.fields_by_name["value"])
        return AssignmentTarget(self.field, element=True)

    @property
    def message(self) -> Descriptor | None:
        """The type of the value, if it is a message."""
        return None if self.is_list or self.is_map else self.field.message_type

    def __str__(self) -> str:
        if self.is_map:
            return f"map(string, {self.one})"
        if self.is_list:
            return f"list({self.one})"
        if self.field.message_type is not None:
            return str(self.field.message_type.full_name)
        if self.field.enum_type is not None:
            return f"{self.field.enum_type.name} (a name or number)"
        if self.field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return "bytes or string" if _is_bytes(self.field) else "string"
        return _WORDS[self.field.cpp_type]


def _is_bytes(field: FieldDescriptor) -> bool:
    return field.type == FieldDescriptor.TYPE_BYTES


# At load
# -------


@dataclass(frozen=True, slots=True)
class TypeMismatch:
    """A part of an expression whose type does not fit: its line:column, and the reason."""

    location: str
    reason: str


def type_mismatch(node: AstNode, target: AssignmentTarget) -> TypeMismatch | None:
    """Return the first part of an expression that cannot be assigned to a target, None if all may.

    A part of unknown type (dyn) may be assigned to any target.
    """
    if branches := node.branches:
        return next(filter(None, (type_mismatch(each, target) for each in branches)), None)
    if (target.is_map or target.message is not None) and node.entries is not None:
        return next(filter(None, (_entry(key, value, target) for key, value in node.entries)), None)
    if target.is_list and node.elements is not None:
        return next(filter(None, (type_mismatch(each, target.one) for each in node.elements)), None)
    if not _fits(node.kind, target):
        return TypeMismatch(node.location, f"takes {target}, not {node.kind}")
    enum = target.field.enum_type
    if enum is not None and node.text is not None and node.text not in enum.values_by_name:
        return TypeMismatch(node.location, _no_enum(node.text, target))
    return None


def _entry(key: AstNode, value: AstNode, target: AssignmentTarget) -> TypeMismatch | None:
    if key.kind not in (DYN, CelType("string")):
        return TypeMismatch(key.location, f"keys are string, not {key.kind}")
    if target.message is None:
        return type_mismatch(value, target.one)
    if key.text is None:
        return None
    field = target.message.fields_by_name.get(key.text)
    if field is None:
        return TypeMismatch(key.location, _no_field(key.text, target.message))
    return type_mismatch(value, AssignmentTarget(field))


def _fits(kind: CelType, target: AssignmentTarget) -> bool:
    if kind in (DYN, CelType("null")):
        return True
    if target.is_list:
        return kind.name == "list" and _fits(kind.parameters[0], target.one)
    if target.is_map:
        return (
            kind.name == "map" and _has_string_keys(kind) and _fits(kind.parameters[1], target.one)
        )
    field = target.field
    if field.message_type is not None:
        return kind.name == field.message_type.full_name or (
            kind.name == "map" and _has_string_keys(kind)
        )
    return _fits_scalar(kind.name, field)


def _has_string_keys(kind: CelType) -> bool:
    return kind.parameters[0] in (DYN, CelType("string"))


def _fits_scalar(name: str, field: FieldDescriptor) -> bool:
    cpp_type = field.cpp_type
    if cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return name == "string" or (name == "bytes" and _is_bytes(field))
    if cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return name == "string" or name in _NUMBERS
    if cpp_type in _RANGES:
        return name in _NUMBERS
    return name == _WORDS[cpp_type] or (name in _NUMBERS and _WORDS[cpp_type] == "double")


def _no_enum(text: str, target: AssignmentTarget) -> str:
    enum = target.field.enum_type
    assert enum is not None
    return f"{text!r} is no {enum.name}{suggestion(text, list(enum.values_by_name))}"


def _no_field(name: str, message: Descriptor) -> str:
    names = [field.name for field in message.fields]
    return f"undefined field {name!r} in {message.full_name}{suggestion(name, names)}"


# At run
# ------


def converted(value: Any, target: AssignmentTarget) -> Any:
    """Convert a value for a target: to a scalar, a message, a list or dict of these; null to None.

    Raises EvaluationError("cel") for a value that does not fit.
    """
    if value is None:
        return None
    if target.is_list:
        _require(isinstance(value, list), value, target)
        return [_present(each, target.one) for each in value]
    if target.is_map:
        _require(isinstance(value, dict) and _all_strings(value), value, target)
        return {key: _present(each, target.one) for key, each in value.items()}
    if target.message is not None:
        return _message(value, target, target.message)
    return _SCALARS[target.field.cpp_type](value, target)


def _present(value: Any, target: AssignmentTarget) -> Any:
    if value is None:
        raise EvaluationError("cel", f"takes {target}, not null")
    return converted(value, target)


def _message(value: Any, target: AssignmentTarget, descriptor: Descriptor) -> Message:
    if isinstance(value, Message):
        _require(value.DESCRIPTOR.full_name == descriptor.full_name, value, target)
        return value
    _require(isinstance(value, dict) and _all_strings(value), value, target)
    message = GetMessageClass(descriptor)()
    for name, each in value.items():
        field = descriptor.fields_by_name.get(name)
        if field is None:
            raise EvaluationError("cel", _no_field(name, descriptor))
        fill(message, field, converted(each, AssignmentTarget(field)))
    return message


def _text(value: Any, target: AssignmentTarget) -> str | bytes:
    if _is_bytes(target.field):
        _require(isinstance(value, str | bytes | bytearray), value, target)
        return bytes_of(value) if isinstance(value, str) else bytes(value)
    _require(isinstance(value, str), value, target)
    return str(value)


def _bool(value: Any, target: AssignmentTarget) -> bool:
    _require(isinstance(value, bool), value, target)
    return bool(value)


def _number(value: Any, target: AssignmentTarget) -> int:
    _require(isinstance(value, int) and not isinstance(value, bool), value, target)
    if value not in _RANGES[target.field.cpp_type]:
        raise EvaluationError("cel", f"{value} is out of the range of {target}")
    return int(value)


def _enum(value: Any, target: AssignmentTarget) -> int:
    if not isinstance(value, str):
        return _number(value, target)
    enum = target.field.enum_type
    assert enum is not None
    if value not in enum.values_by_name:
        raise EvaluationError("cel", _no_enum(value, target))
    return enum.values_by_name[value].number


def _double(value: Any, target: AssignmentTarget) -> float:
    _require(isinstance(value, int | float) and not isinstance(value, bool), value, target)
    return float(value)


_SCALARS: Final[Mapping[int, Callable[[Any, AssignmentTarget], Any]]] = {
    **dict.fromkeys(_RANGES, _number),
    FieldDescriptor.CPPTYPE_STRING: _text,
    FieldDescriptor.CPPTYPE_BOOL: _bool,
    FieldDescriptor.CPPTYPE_ENUM: _enum,
    FieldDescriptor.CPPTYPE_DOUBLE: _double,
    FieldDescriptor.CPPTYPE_FLOAT: _double,
}


def _all_strings(value: Iterable[Any]) -> bool:
    return all(isinstance(key, str) for key in value)


def _require(fits: bool, value: Any, target: AssignmentTarget) -> None:
    if not fits:
        kind = value.DESCRIPTOR.full_name if isinstance(value, Message) else type(value).__name__
        raise EvaluationError("cel", f"takes {target}, not {_CEL_NAMES.get(kind, kind)}")


_CEL_NAMES: Final = {"str": "string", "float": "double", "bytearray": "bytes", "dict": "map"}


def fill(message: Message, field: FieldDescriptor, value: Any) -> None:
    """Set a whole field to a converted value; None clears it."""
    message.ClearField(field.name)
    if value is None:
        return
    if is_map(field):
        getattr(message, field.name).update(value)
    elif field.is_repeated:
        getattr(message, field.name).extend(value)
    elif field.message_type is not None:
        target = getattr(message, field.name)
        target.CopyFrom(value)
        target.SetInParent()  # an empty message is present, too
    else:
        setattr(message, field.name, value)
