"""Applies JSON Patches (RFC 6902) to protobuf messages, using protobuf's JSON mapping.

JSON contains only a part of a message: unknown fields (a newer kubelet's) and credentials are left
out, and secrets in the texts of statuses are redacted. This hidden part is kept while the patch
changes the rest, so each JSON object has a reference to its message, wherever the patch moves it
to. A patch is refused where it does not determine what becomes of the hidden part:

- A removed object is removed with its hidden part.
- An object that replaces another one in a field is the same message with other contents.
- In a list, a new object equal to a removed one is that one. Another new object may be a new one or
  a changed one: the patch is refused if a removed one had a hidden part.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from jsonpatch import JsonPatch, JsonPatchException, JsonPointerException

from criproxy.cri.redaction import is_status_text
from criproxy.cri.text_redaction import redact_text


class PatchError(Exception):
    """A patch that cannot be applied; the text says why in one line."""


class JsonObject(dict[str, Any]):
    """A message as JSON. ``origin`` is the message, ``children`` those of its fields."""

    __slots__ = ("children", "origin")
    origin: Message
    children: "dict[str, JsonObject | list[JsonObject]]"

    def __deepcopy__(self, memo: Any) -> "JsonObject":
        """Copy for an operation ``copy``; the hidden part is copied with it."""
        same = JsonObject((key, deepcopy(value, memo)) for key, value in self.items())
        same.origin, same.children = self.origin, self.children
        return same


def to_json(message: Message) -> JsonObject:
    """Return a message in protobuf's JSON mapping, without credentials.

    Names are in lowerCamelCase, bytes base64, 64-bit integers strings; fields that are not set
    have their defaults, so that a patch can refer to them, except messages, which are left out.
    """
    return _to_json(message, MessageToDict(message, always_print_fields_with_no_presence=True))


def apply_patch(message: JsonObject, patch: Sequence[Any]) -> Message:
    """Apply a JSON Patch to the result of :func:`to_json`, which is changed by it.

    Returns a new message. Raises PatchError.
    """
    origin = message.origin
    try:
        after = JsonPatch(patch).apply(message, in_place=True)
    except (JsonPatchException, JsonPointerException) as error:
        raise PatchError(" ".join(str(error).split())) from error
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise PatchError(f"cannot be applied: {type(error).__name__}: {error}") from error
    result = type(origin)()
    _fill(result, after, _previous(after, message, result.DESCRIPTOR, "/"), "")
    return result


def _to_json(message: Message, data: dict[str, Any]) -> JsonObject:
    result = JsonObject(data)
    result.origin = message
    result.children = {}
    for name, field in _fields(message.DESCRIPTOR).items():
        if _is_credential(field):
            result.pop(name, None)
        elif is_status_text(field):
            result[name] = redact_text(result[name])
        elif name in data and _contains_messages(field):
            value, written = getattr(message, field.name), data[name]
            if field.is_repeated:
                items = [_to_json(item, each) for item, each in zip(value, written, strict=True)]
                result[name], result.children[name] = list(items), items
            else:
                result[name] = result.children[name] = _to_json(value, written)
    return result


def _fill(target: Message, data: Any, previous: JsonObject | None, path: str) -> None:
    """Fill an empty message from JSON (``data``) and the hidden part of ``previous``."""
    if not isinstance(data, dict):
        raise PatchError(f"{path or '/'} has to be an object")
    if previous is not None:
        _copy_hidden_part(target, previous.origin)
    fields = _fields(target.DESCRIPTOR)
    rest = {}
    for name, value in data.items():
        field, location = fields.get(name), f"{path}/{name}"
        if field is None:
            raise PatchError(f"{location}: {target.DESCRIPTOR.name} has no such field")
        if _is_credential(field):
            raise PatchError(f"{location} holds credentials, which are not to be patched")
        if value is None or not _contains_messages(field):
            rest[name] = _restored(value, field, previous)
        elif field.is_repeated:
            _fill_list(target, field, value, previous, location)
        else:
            child = getattr(target, field.name)
            child.SetInParent()
            before = previous and previous.children.get(name)
            assert not isinstance(before, list)
            _fill(child, value, _previous(value, before, child.DESCRIPTOR, location), location)
    try:
        ParseDict(rest, target)
    except (ParseError, ValueError, TypeError) as error:
        raise PatchError(f"{path or '/'}: {' '.join(str(error).split())}") from error


def _restored(value: Any, field: FieldDescriptor, previous: JsonObject | None) -> Any:
    """Return the text of a status with its secrets, if the patch has not changed it."""
    if previous is not None and is_status_text(field):
        origin = getattr(previous.origin, field.name)
        if value == redact_text(origin):
            return origin
    return value


def _fill_list(
    target: Message, field: FieldDescriptor, values: Any, previous: JsonObject | None, path: str
) -> None:
    if not isinstance(values, list):
        raise PatchError(f"{path} has to be a list")
    before = previous.children.get(field.json_name, []) if previous is not None else []
    assert isinstance(before, list)
    origins = _origins(values, before, path)
    for index, (value, origin) in enumerate(zip(values, origins, strict=True)):
        location = f"{path}/{index}"
        child = getattr(target, field.name).add()
        _fill(child, value, _previous(value, origin, child.DESCRIPTOR, location), location)


def _origins(values: list[Any], before: list[JsonObject], path: str) -> list[JsonObject | None]:
    """Return for each item of a patched list the object that it was; None for a new one."""
    present = {id(value) for value in values}
    removed = [item for item in before if id(item) not in present]
    origins: list[JsonObject | None] = []
    ambiguous = False
    for value in values:
        origin = value if isinstance(value, JsonObject) else None
        if origin is None:
            index = next((i for i, item in enumerate(removed) if item == value), None)
            ambiguous = ambiguous or index is None
            origin = None if index is None else removed.pop(index)
        origins.append(origin)
    if ambiguous:
        for item in removed:
            _refuse_loss(item, path)
    return origins


def _previous(value: Any, before: JsonObject | None, kind: object, path: str) -> JsonObject | None:
    """Return the object that a value was: itself, else the one that it replaces."""
    if not isinstance(value, JsonObject):
        return before
    if before is not None and before.origin is not value.origin:
        _refuse_loss(before, path)
    if value.origin.DESCRIPTOR is kind:
        return value
    _refuse_loss(value, path)
    return None


def _refuse_loss(item: JsonObject, path: str) -> None:
    if _has_hidden_part(item.origin):
        name = item.origin.DESCRIPTOR.name
        raise PatchError(f"{path}: fields of a {name} that are not shown would be lost")


def _copy_hidden_part(target: Message, origin: Message) -> None:
    target.CopyFrom(origin)
    for field, _ in target.ListFields():
        if not _is_credential(field):
            target.ClearField(field.name)


def _has_hidden_part(message: Message) -> bool:
    """Return whether a message has a hidden part."""
    if len(UnknownFieldSet(message)):
        return True
    for field, value in message.ListFields():
        if _is_credential(field):
            return True
        if _contains_messages(field) and any(
            map(_has_hidden_part, value if field.is_repeated else (value,))
        ):
            return True
    return False


@cache
def _fields(descriptor: Descriptor) -> Mapping[str, FieldDescriptor]:
    return {field.json_name: field for field in descriptor.fields}


@cache
def _is_credential(field: FieldDescriptor) -> bool:
    """Return whether a field contains credentials. Only v1 marks its secrets."""
    kind = field.message_type
    return field.GetOptions().debug_redact or (kind is not None and kind.name == "AuthConfig")


@cache
def _contains_messages(field: FieldDescriptor) -> bool:
    """Return whether a field contains messages; the CRI's maps contain none."""
    kind = field.message_type
    return kind is not None and not kind.GetOptions().map_entry
