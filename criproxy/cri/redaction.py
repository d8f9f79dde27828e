"""Messages as JSON without their secrets.

The JSON is protobuf's own mapping (``google.protobuf.json_format``): camelCase names, 64-bit
numbers and bytes as text, fields without a value left out, unknown fields too. In place of a secret
stands a mark with its length in bytes. The library's own converter takes several times as long and
can leave nothing out in passing; a test holds this one to it.
"""

import math
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import translate
from functools import cache
from typing import Any, Final, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_CREDENTIALS: Final = frozenset({"auth", "identity_token", "password", "registry_token"})
"""Fields of AuthConfig: ``debug_redact`` marks them in v1, and does not in v1alpha2."""

_LONG: Final = frozenset(
    {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64},
)
_FLOATS: Final = frozenset({FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE})

_Convert = Callable[[Any], Any]


@cache
def is_secret(field: FieldDescriptor) -> bool:
    """Tell whether a field is never to be shown, in either version of the API."""
    owner = field.containing_type
    return field.GetOptions().debug_redact or (
        owner is not None and owner.name == "AuthConfig" and field.name in _CREDENTIALS
    )


def secrets_in(message: Message) -> Iterator[str]:
    """Find the texts in fields that are never to be shown."""
    for field, value in message.ListFields():
        values = value if field.is_repeated else (value,)
        if is_secret(field):
            yield from (each for each in values if isinstance(each, str))
        elif field.message_type is not None and not _is_map(field):
            for each in values:
                yield from secrets_in(each)


def mark(size: int) -> str:
    """Return what stands in place of a secret of ``size`` bytes."""
    return f"[redacted: {size} bytes]"


class _Plan(NamedTuple):
    """How a field is written: its name, and what is made of its value (None: nothing)."""

    name: str
    convert: _Convert | None


class _Plans(dict[FieldDescriptor, _Plan]):
    """Each field's plan, made when it is met first."""

    def __init__(self, make: Callable[[FieldDescriptor], _Plan]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, field: FieldDescriptor) -> _Plan:
        plan = self[field] = self._make(field)
        return plan


class Redactor:
    """Writes messages and texts without what is to be kept out."""

    def __init__(
        self,
        environment: bool = True,
        info: bool = True,
        annotations: Sequence[str] = (),
        values: Iterable[str] = (),
    ) -> None:
        """``environment`` and ``info`` (what a verbose status adds) tell whether these are kept
        out, ``annotations`` are globs of the keys whose values are. ``values`` are regular
        expressions; what they find in any text is kept out. Raises re.error for what is none."""
        self._environment = environment
        self._info = info
        globs = "|".join(map(translate, annotations))
        self._annotation = re.compile(globs).match if globs else None
        self._patterns = tuple(map(re.compile, values))
        self._text: _Convert | None = self.text if self._patterns else None
        self._plans = _Plans(self._plan)

    @property
    def reads_texts(self) -> bool:
        """Whether :meth:`text` may change anything."""
        return bool(self._patterns)

    def text(self, text: str) -> str:
        """Return a text with marks in place of what the expressions find in it."""
        found = [each.span() for pattern in self._patterns for each in pattern.finditer(text)]
        if not found:
            return text
        pieces = []
        done = 0
        for start, end in _merged(found):
            pieces += [text[done:start], mark(len(_encode(text[start:end])))]
            done = end
        return "".join([*pieces, text[done:]])

    def texts(self, value: Any) -> Any:
        """Return plain data with :meth:`text` done to all texts within, keys too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.texts(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return list(map(self.texts, value))
        return value

    def to_json(self, message: Message) -> dict[str, Any]:
        """Return a message as plain data for JSON."""
        plans = self._plans
        shown = {}
        for field, value in message.ListFields():
            name, convert = plans[field]
            shown[name] = value if convert is None else convert(value)
        return shown

    def _plan(self, field: FieldDescriptor) -> _Plan:
        if _is_map(field):
            return _Plan(field.json_name, self._of_map(field))
        convert = _hidden if self._hides(field) else self._of_value(field)
        if field.is_repeated:
            return _Plan(field.json_name, _each(convert))
        return _Plan(field.json_name, convert)

    def _hides(self, field: FieldDescriptor) -> bool:
        owner = field.containing_type
        return is_secret(field) or (
            self._environment
            and owner is not None
            and owner.name == "KeyValue"
            and field.name == "value"
        )

    def _of_value(self, field: FieldDescriptor) -> _Convert | None:
        if field.message_type is not None:
            return self.to_json
        if field.type == FieldDescriptor.TYPE_BYTES:
            return self._base64
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return self._text
        if field.enum_type is not None:
            names = {each.number: each.name for each in field.enum_type.values}
            return lambda value: names.get(value, value)
        if field.cpp_type in _LONG:
            return str
        return _number if field.cpp_type in _FLOATS else None

    def _of_map(self, field: FieldDescriptor) -> _Convert:
        """Convert a map; the CRI's have texts for keys."""
        assert field.message_type is not None
        if is_secret(field) or (self._info and field.name == "info"):
            convert: _Convert | None = _hidden
        else:
            convert = self._of_value(field.message_type.fields_by_name["value"])
        hides = self._annotation if field.name == "annotations" else None
        if hides is None and self._text is None and convert is None:
            return lambda entries: {key: entries[key] for key in entries}

        def converted(entries: Any) -> dict[str, Any]:
            shown = {}
            for key in entries:
                value = entries[key]
                if hides is not None and hides(key):
                    value = _hidden(value)
                elif convert is not None:
                    value = convert(value)
                shown[self.text(key)] = value
            return shown

        return converted

    def _base64(self, value: bytes) -> str:
        if self._patterns:
            value = _encode(self.text(value.decode(errors="surrogateescape")))
        return b64encode(value).decode()


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join spans that overlap; those of nothing, which an expression may find, go."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _each(convert: _Convert | None) -> _Convert:
    if convert is None:
        return list
    return lambda values: [convert(value) for value in values]


def _hidden(value: Any) -> str:
    if isinstance(value, Message):
        return mark(value.ByteSize())
    return mark(len(value if isinstance(value, bytes) else _encode(str(value))))


def _encode(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _number(value: float) -> float | str:
    """Write a floating-point number; JSON has no words for some."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and kind.GetOptions().map_entry
