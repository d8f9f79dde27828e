"""JSON Patches (RFC 6902) of protobuf messages, by way of protobuf's JSON mapping.

JSON shows only a part of a message: fields that we do not know (a newer kubelet's) are not in it,
and credentials are withheld. That part stays where it is while the patch changes what is around it.
Each object of the JSON therefore knows what message it was made of, wherever the patch moves it to.
Where a patch leaves open what becomes of the hidden part, it is refused:

- An object that is gone took its hidden part along: that is what removing means.
- An object in the place of another, in a field, is the same message with other contents.
- In a list, a new object is the one that is gone if all that is shown of them is the same. Else it
  may be a new one or a changed one: refused if what is gone had a hidden part.
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


class PatchError(Exception):
    """A patch that cannot be carried out: what is wrong, in one line."""


class JsonObject(dict[str, Any]):
    """A message as JSON. ``origin`` is the message, ``children`` the messages of its fields."""

    __slots__ = ("children", "origin")
    origin: Message
    children: "dict[str, JsonObject | list[JsonObject]]"

    def __deepcopy__(self, memo: Any) -> "JsonObject":
        """Copy for an operation ``copy``; what is hidden is copied with it."""
        same = JsonObject((key, deepcopy(value, memo)) for key, value in self.items())
        same.origin, same.children = self.origin, self.children
        return same


def shown(message: Message) -> JsonObject:
    """Return a message in protobuf's JSON mapping, without the credentials that it has.

    Names are in lowerCamelCase, bytes base64, 64-bit integers strings; fields that are not set are
    there with their defaults, so that a patch can go by them, but for messages.
    """
    return _shown(message, MessageToDict(message, always_print_fields_with_no_presence=True))


def patched(message: JsonObject, patch: Sequence[Any]) -> Message:
    """Apply a JSON Patch to what :func:`shown` returned, which is used up by it.

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
    _fill(result, after, _former(after, message, result.DESCRIPTOR, "/"), "")
    return result


def _shown(message: Message, data: dict[str, Any]) -> JsonObject:
    result = JsonObject(data)
    result.origin = message
    result.children = {}
    for name, field in _fields(message.DESCRIPTOR).items():
        if _withheld(field):
            result.pop(name, None)
        elif name in data and _holds_messages(field):
            value, written = getattr(message, field.name), data[name]
            if field.is_repeated:
                items = [_shown(item, each) for item, each in zip(value, written, strict=True)]
                result[name], result.children[name] = list(items), items
            else:
                result[name] = result.children[name] = _shown(value, written)
    return result


def _fill(target: Message, data: Any, former: JsonObject | None, path: str) -> None:
    """Fill an empty message with what is shown (``data``), and with what is hidden (``former``)."""
    if not isinstance(data, dict):
        raise PatchError(f"{path or '/'} has to be an object")
    if former is not None:
        _take_hidden(target, former.origin)
    fields = _fields(target.DESCRIPTOR)
    rest = {}
    for name, value in data.items():
        field, here = fields.get(name), f"{path}/{name}"
        if field is None:
            raise PatchError(f"{here}: {target.DESCRIPTOR.name} has no such field")
        if _withheld(field):
            raise PatchError(f"{here} holds credentials, which are not to be patched")
        if value is None or not _holds_messages(field):
            rest[name] = value
        elif field.is_repeated:
            _fill_list(target, field, value, former, here)
        else:
            child = getattr(target, field.name)
            child.SetInParent()
            before = former and former.children.get(name)
            assert not isinstance(before, list)
            _fill(child, value, _former(value, before, child.DESCRIPTOR, here), here)
    try:
        ParseDict(rest, target)
    except (ParseError, ValueError, TypeError) as error:
        raise PatchError(f"{path or '/'}: {' '.join(str(error).split())}") from error


def _fill_list(
    target: Message, field: FieldDescriptor, values: Any, former: JsonObject | None, path: str
) -> None:
    if not isinstance(values, list):
        raise PatchError(f"{path} has to be a list")
    before = former.children.get(field.json_name, []) if former is not None else []
    assert isinstance(before, list)
    origins = _origins(values, before, path)
    for index, (value, origin) in enumerate(zip(values, origins, strict=True)):
        here = f"{path}/{index}"
        child = getattr(target, field.name).add()
        _fill(child, value, _former(value, origin, child.DESCRIPTOR, here), here)


def _origins(values: list[Any], before: list[JsonObject], path: str) -> list[JsonObject | None]:
    """Tell for each item of a patched list which one it was."""
    kept = {id(value) for value in values}
    gone = [item for item in before if id(item) not in kept]
    origins: list[JsonObject | None] = []
    unclear = False
    for value in values:
        origin = value if isinstance(value, JsonObject) else None
        if origin is None:
            index = next((i for i, item in enumerate(gone) if item == value), None)
            unclear = unclear or index is None
            origin = None if index is None else gone.pop(index)
        origins.append(origin)
    if unclear:
        for item in gone:
            _refuse_loss(item, path)
    return origins


def _former(value: Any, before: JsonObject | None, kind: object, path: str) -> JsonObject | None:
    """Tell what object a value was: the one that it is, else the one that it takes the place of."""
    if not isinstance(value, JsonObject):
        return before
    if before is not None and before.origin is not value.origin:
        _refuse_loss(before, path)
    if value.origin.DESCRIPTOR is kind:
        return value
    _refuse_loss(value, path)
    return None


def _refuse_loss(item: JsonObject, path: str) -> None:
    if _hides(item.origin):
        name = item.origin.DESCRIPTOR.name
        raise PatchError(f"{path}: fields of a {name} that are not shown would be lost")


def _take_hidden(target: Message, origin: Message) -> None:
    target.CopyFrom(origin)
    for field, _ in target.ListFields():
        if not _withheld(field):
            target.ClearField(field.name)


def _hides(message: Message) -> bool:
    """Tell whether JSON does not show all of a message."""
    if len(UnknownFieldSet(message)):
        return True
    for field, value in message.ListFields():
        if _withheld(field):
            return True
        if _holds_messages(field) and any(map(_hides, value if field.is_repeated else (value,))):
            return True
    return False


@cache
def _fields(kind: Descriptor) -> Mapping[str, FieldDescriptor]:
    return {field.json_name: field for field in kind.fields}


@cache
def _withheld(field: FieldDescriptor) -> bool:
    """Tell whether a field holds credentials: v1 marks its secrets, v1alpha2 does not yet."""
    kind = field.message_type
    return field.GetOptions().debug_redact or (kind is not None and kind.name == "AuthConfig")


@cache
def _holds_messages(field: FieldDescriptor) -> bool:
    """Tell whether a field holds messages; the CRI's maps hold none."""
    kind = field.message_type
    return kind is not None and not kind.GetOptions().map_entry
