"""Draws random messages of any kind from their descriptors."""

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

_DEPTH = 3
_INT32 = st.integers(-(1 << 31), (1 << 31) - 1)
_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_INT32: _INT32,
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, (1 << 64) - 1),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(allow_nan=False),
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(allow_nan=False, width=32),
}

UNKNOWN = st.binary(max_size=20).map(lambda data: b"\xc2\xbe\x0f" + bytes([len(data)]) + data)
"""A field that no message of the CRI has: number 31,720, of the wire type with a length."""


@st.composite
def messages(
    draw: st.DrawFn, kind: type[Message], depth: int = _DEPTH, unknown: bool = True
) -> Message:
    """Draw a message, with fields of any kind set or not, and unknown ones within."""
    descriptor = kind.DESCRIPTOR
    message = kind()
    if descriptor.fields:
        for field in draw(st.lists(st.sampled_from(list(descriptor.fields)), max_size=4)):
            _fill(draw, message, field, depth, unknown)
    if unknown and draw(st.booleans()):
        message.MergeFromString(draw(UNKNOWN))
    return message


def _fill(
    draw: st.DrawFn, message: Message, field: FieldDescriptor, depth: int, unknown: bool
) -> None:
    place = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        place.update(draw(st.dictionaries(st.text(max_size=4), st.text(max_size=8), max_size=3)))
    elif field.message_type is None:
        if field.is_repeated:
            place.extend(draw(st.lists(_scalar(field), max_size=3)))
        else:
            setattr(message, field.name, draw(_scalar(field)))
    elif depth > 0:
        inner = messages(_class(field.message_type), depth - 1, unknown)
        if field.is_repeated:
            place.extend(draw(st.lists(inner, max_size=2)))
        else:
            place.MergeFrom(draw(inner))
            place.SetInParent()


def _scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=8)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return st.text(max_size=8)
    if field.enum_type is not None:
        return st.sampled_from(list(field.enum_type.values_by_number)) | _INT32
    return _SCALARS[field.cpp_type]


def _class(descriptor: Descriptor) -> type[Message]:
    return GetMessageClass(descriptor)
