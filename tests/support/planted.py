"""Fills every field of messages, and plants secrets wherever there may be one."""

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

CREDENTIALS = {"password", "auth", "identity_token", "registry_token"}
HIDDEN_ANNOTATION = "hidden.example/key"


class Secrets:
    """Makes unique secrets and keeps them."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def new(self) -> str:
        secret = f"s3cret-{len(self.made):04}-of-ours"
        self.made.append(secret)
        return secret


def fill(message: Message, text: Callable[[FieldDescriptor], str]) -> None:
    """Set each field of a message and of nested ones; ``text`` returns the strings."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            getattr(message, field.name)[text(field)] = text(field)
        elif field.message_type is not None:
            place = getattr(message, field.name)
            fill(place.add() if field.is_repeated else place, text)
        elif field.is_repeated:
            getattr(message, field.name).append(_value(field, text))
        else:
            setattr(message, field.name, _value(field, text))


def plant(message: Message, secrets: Secrets) -> None:
    """Put a secret into every field of a message, and of those within, that is to be redacted.

    Unknown fields have one as well, and so has the annotation HIDDEN_ANNOTATION.
    """
    kind = message.DESCRIPTOR.name
    hidden = secrets.new().encode()
    message.MergeFromString(b"\xc2\xbe\x0f" + bytes([len(hidden)]) + hidden)
    for field in message.DESCRIPTOR.fields:
        value: Any = getattr(message, field.name)
        if (kind == "AuthConfig" and field.name in CREDENTIALS) or (
            kind == "KeyValue" and field.name == "value"
        ):
            secret = secrets.new()
            is_bytes = field.type == FieldDescriptor.TYPE_BYTES
            setattr(message, field.name, secret.encode() if is_bytes else secret)
        elif field.message_type is None:
            continue
        elif field.message_type.GetOptions().map_entry:
            if field.name == "info":
                for key in [*value, "more"]:
                    value[key] = secrets.new()
            elif field.name == "annotations":
                value[HIDDEN_ANNOTATION] = secrets.new()
        elif field.is_repeated:
            value.add()
            for each in value:
                plant(each, secrets)
        else:
            value.SetInParent()
            plant(value, secrets)


def _value(field: FieldDescriptor, text: Callable[[FieldDescriptor], str]) -> Any:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return text(field).encode()
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return text(field)
    return 1
