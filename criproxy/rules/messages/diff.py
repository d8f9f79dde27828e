"""The differences between two messages as text, for logs and for ``criproxy rules test``."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from criproxy.cri.messages import is_map
from criproxy.cri.redaction import is_secret

_LONGEST: Final = 100
"""Characters of a value that are shown."""

_REDACTED: Final = "(redacted)"


@dataclass(frozen=True, slots=True)
class Change:
    """A field that differs: its path as in a rule, and both values, shortened; None: absent."""

    path: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        return f"{self.path}: {self.before or '(none)'} -> {self.after or '(none)'}"


def _same(text: str) -> str:
    return text


def diff_messages(
    before: Message, after: Message, key: Callable[[str], str] = _same
) -> list[Change]:
    """Return the differences between two messages of the same type, in the order of their fields.

    ``key`` converts the keys of maps for display.
    """
    return list(_Comparison(key).within("", before, after))


class _Comparison:
    def __init__(self, key: Callable[[str], str]) -> None:
        self._key = key

    def within(self, prefix: str, before: Message, after: Message) -> Iterator[Change]:
        if before == after:
            return
        for field in cast(Descriptor, before.DESCRIPTOR).fields:
            path = prefix + field.name
            if is_map(field):
                yield from self._in_map(path, field, before, after)
            elif field.is_repeated:
                yield from self._in_list(path, field, before, after)
            elif field.message_type is not None:
                yield from self._in_message(path, field, _own(before, field), _own(after, field))
            else:
                yield from _in_value(path, field, _own(before, field), _own(after, field))
        was, now = _unknown(before), _unknown(after)
        if was != now:
            yield Change(f"{prefix}(unknown fields)", _size(was), _size(now))

    def _in_map(
        self, path: str, field: FieldDescriptor, before: Message, after: Message
    ) -> Iterator[Change]:
        was, now = getattr(before, field.name), getattr(after, field.name)
        assert field.message_type is not None
        value = field.message_type.fields_by_name["value"]
        for key in sorted({*was, *now}):
            yield from _in_value(
                f"{path}[{_quoted(self._key(key))}]", value, was.get(key), now.get(key)
            )

    def _in_list(
        self, path: str, field: FieldDescriptor, before: Message, after: Message
    ) -> Iterator[Change]:
        was, now = getattr(before, field.name), getattr(after, field.name)
        for index in range(max(len(was), len(now))):
            old = was[index] if index < len(was) else None
            new = now[index] if index < len(now) else None
            of = _in_value if field.message_type is None else self._in_message
            yield from of(f"{path}[{index}]", field, old, new)

    def _in_message(
        self, path: str, field: FieldDescriptor, before: Message | None, after: Message | None
    ) -> Iterator[Change]:
        if before is None and after is None:
            return
        assert field.message_type is not None
        nothing = GetMessageClass(field.message_type)()
        found = list(self.within(f"{path}.", before or nothing, after or nothing))
        if not found and (before is None) != (after is None):
            found = [
                Change(path, None if before is None else "{}", None if after is None else "{}")
            ]
        yield from found


def _own(message: Message, field: FieldDescriptor) -> Any:
    """Return a singular field's value, None if it is absent."""
    if field.has_presence and not message.HasField(field.name):
        return None
    return getattr(message, field.name)


def _in_value(path: str, field: FieldDescriptor, before: Any, after: Any) -> Iterator[Change]:
    if before != after:
        yield Change(path, _shown(field, before), _shown(field, after))


def _shown(field: FieldDescriptor, value: Any) -> str | None:
    if value is None:
        return None
    if is_secret(field):
        return _REDACTED if value else '""'
    if field.enum_type is not None and value in field.enum_type.values_by_number:
        return field.enum_type.values_by_number[value].name
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        return _quoted(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _quoted(text: str) -> str:
    more = f"... ({len(text)} characters)" if len(text) > _LONGEST else ""
    inner = text[:_LONGEST].encode("unicode_escape").decode().replace('"', '\\"')
    return f'"{inner}"{more}'


def _unknown(message: Message) -> bytes:
    """Return the bytes of the unknown fields of a message."""
    rest = type(message)()
    rest.CopyFrom(message)
    for field, _ in message.ListFields():
        rest.ClearField(field.name)
    return rest.SerializeToString()


def _size(data: bytes) -> str | None:
    return f"{len(data)} bytes" if data else None
