"""Values of environment variables: bytes in CRI v1, a string in v1alpha2, the same on the wire.

A value need not be UTF-8, and protobuf refuses a message of v1alpha2 with such a value. Here every
value has one text, which leads back to its bytes: a byte that is not UTF-8 becomes one of the last
128 code points of Unicode, all for private use. A value that contains these is escaped as well.
"""

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from criproxy.cri.pb import runtime_v1_pb2, runtime_v1alpha2_pb2

_M = TypeVar("_M", bound=Message)

_FIRST: Final = 0x10FF80
"""The code point of the byte 0x80."""

_ESCAPED: Final = re.compile("[\U0010ff80-\U0010ffff]")
_TO_SURROGATES: Final = {_FIRST + byte - 0x80: 0xDC00 + byte for byte in range(0x80, 0x100)}
_FROM_SURROGATES: Final = {surrogate: code for code, surrogate in _TO_SURROGATES.items()}
_LEAD: Final = re.compile(rb"\xf4\x8f[\xbe\xbf]")
"""The first three bytes of the UTF-8 of an escaped byte."""


def text_of(value: bytes) -> str:
    """Return the text of a value. For UTF-8 without private use, it is what UTF-8 says."""
    text = value.decode(errors="surrogateescape")
    if _LEAD.search(value):
        text = _ESCAPED.sub(
            lambda found: found[0].encode().decode("ascii", "surrogateescape"), text
        )
    return text if text.isprintable() else text.translate(_FROM_SURROGATES)


def bytes_of(text: str) -> bytes:
    """Return the value that has a text."""
    if _ESCAPED.search(text):
        return text.translate(_TO_SURROGATES).encode(errors="surrogateescape")
    return text.encode()


def decode_message(message_class: type[_M], data: bytes) -> _M:
    """Decode a message; values of v1alpha2 are texts. Raises DecodeError."""
    try:
        message = message_class.FromString(data)
        if not _LEAD.search(data):
            return message
    except DecodeError:
        message = None
    message_v1 = _parse_as_v1(message_class, data)
    if message_v1 is not None and _replace_values(message_v1, lambda each: text_of(each).encode()):
        return message_class.FromString(message_v1.SerializeToString())
    return message_class.FromString(data) if message is None else message


def encode_message(message: Message) -> bytes:
    """Encode a message; of texts in v1alpha2, the values that they stand for."""
    data: bytes = message.SerializeToString()
    if _LEAD.search(data):
        message_v1 = _parse_as_v1(type(message), data)
        if message_v1 is not None and _replace_values(
            message_v1, lambda each: bytes_of(each.decode())
        ):
            return message_v1.SerializeToString()
    return data


def _parse_as_v1(message_class: type[Message], data: bytes) -> Message | None:
    """Parse a message of v1alpha2 as the one of v1, which has all of its fields."""
    descriptor = message_class.DESCRIPTOR
    if descriptor.file is not runtime_v1alpha2_pb2.DESCRIPTOR:
        return None
    found = runtime_v1_pb2.DESCRIPTOR.message_types_by_name[descriptor.name]
    return GetMessageClass(found).FromString(data)


def _replace_values(message: Message, replace: Callable[[bytes], bytes]) -> bool:
    """Replace the values of environment variables, in place. Return whether any differs."""
    changed = False
    if message.DESCRIPTOR.name == "KeyValue":
        pair: Any = message
        before = pair.value
        pair.value = replace(before)
        return bool(pair.value != before)
    for field, value in message.ListFields():
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for each in value if field.is_repeated else (value,):
                changed |= _replace_values(each, replace)
    return changed
