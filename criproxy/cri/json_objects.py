"""Makes messages of the objects that :meth:`criproxy.cri.redaction.Redactor.to_json` returns."""

import binascii
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import Error, ParseDict
from google.protobuf.message import Message

from criproxy.cri.messages import is_map

_M = TypeVar("_M", bound=Message)


def message_from_json(kind: type[_M], data: Mapping[str, Any]) -> _M:
    """Return the message of an object; marks in place of secrets are the values of their fields.

    Fields that the message does not have are left out. Raises ValueError if it is no such object.
    """
    try:
        parsable = _parsable(cast(Descriptor, kind.DESCRIPTOR), data)
        return ParseDict(parsable, kind(), ignore_unknown_fields=True)
    except (Error, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"not a {kind.DESCRIPTOR.name}: {error}") from error


def _parsable(descriptor: Descriptor, data: Any) -> dict[str, Any]:
    """Return an object with base64 for the marks in place of bytes."""
    if not isinstance(data, Mapping):
        raise TypeError(f"{descriptor.name} is an object")
    result = dict(data)
    for field in descriptor.fields:
        value = result.get(field.json_name)
        if value is None or is_map(field):
            continue
        if field.message_type is not None:
            inner = field.message_type
            if field.is_repeated:
                result[field.json_name] = [_parsable(inner, each) for each in value]
            else:
                result[field.json_name] = _parsable(inner, value)
        elif field.type == FieldDescriptor.TYPE_BYTES:
            result[field.json_name] = _base64(value)
    return result


def _base64(value: str) -> str:
    try:
        b64decode(value, validate=True)
    except binascii.Error:
        return b64encode(value.encode()).decode()
    return value
