"""Conversion of messages to JSON without secrets, and removal of secrets from messages.

The JSON is protobuf's own mapping (``google.protobuf.json_format``): camelCase names, 64-bit
numbers and bytes as strings; fields without a value and unknown fields are left out. A mark with
the length in bytes replaces each secret; :mod:`criproxy.cri.text_redaction` finds secrets within
texts. The library's converter takes several times as long and cannot redact; a test compares the
two.
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

from criproxy.configtypes.patterns import Matcher
from criproxy.cri.environment import bytes_of
from criproxy.cri.messages import is_map
from criproxy.cri.text_redaction import mark, merged_spans, redact_text

_CREDENTIALS: Final = frozenset({"auth", "identity_token", "password", "registry_token"})
"""Fields of AuthConfig: ``debug_redact`` marks them in v1, and does not in v1alpha2."""

MANIFEST_ANNOTATIONS: Final = (
    "kubectl.kubernetes.io/last-applied-configuration",
    "kapp.k14s.io/original",
    "objectset.rio.cattle.io/applied",
)
"""Annotations in which kubectl, kapp and k3s keep whole manifests, environment included."""

_STATUS_TEXTS: Final = frozenset(
    {
        "ContainerStatus.message",
        "ContainerStatus.reason",
        "RuntimeCondition.message",
        "RuntimeCondition.reason",
    }
)
"""Fields that repeat what the runtime was told by others."""

_LONG: Final = frozenset(
    {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64},
)
_FLOATS: Final = frozenset({FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE})

_SURROGATES: Final = "surrogatepass"
"""How text is encoded for RE2. Bytes that are not UTF-8 become lone surrogates, and match ``.``."""

_Convert = Callable[[Any], Any]


@cache
def is_secret(field: FieldDescriptor) -> bool:
    """Return whether a field, of either API version, is always redacted."""
    owner = field.containing_type
    return field.GetOptions().debug_redact or (
        owner is not None and owner.name == "AuthConfig" and field.name in _CREDENTIALS
    )


def is_status_text(field: FieldDescriptor) -> bool:
    """Return whether a field is a text in which a runtime describes a status: it may quote URLs."""
    owner = field.containing_type
    return owner is not None and f"{owner.name}.{field.name}" in _STATUS_TEXTS


def secrets_in(message: Message) -> Iterator[str]:
    """Yield the strings in fields that are always redacted."""
    for field, value in message.ListFields():
        values = value if field.is_repeated else (value,)
        if is_secret(field):
            yield from (each for each in values if isinstance(each, str))
        elif field.message_type is not None and not is_map(field):
            for each in values:
                yield from secrets_in(each)


class _Conversion(NamedTuple):
    """The JSON name of a field, and the function that converts its value (None: unchanged)."""

    name: str
    convert: _Convert | None


class _Conversions(dict[FieldDescriptor, _Conversion]):
    """The conversion of each field, created on first use."""

    def __init__(self, create: Callable[[FieldDescriptor], _Conversion]) -> None:
        super().__init__()
        self._create = create

    def __missing__(self, field: FieldDescriptor) -> _Conversion:
        conversion = self[field] = self._create(field)
        return conversion


class Redactor:
    """Converts messages and strings, replacing secrets by marks."""

    def __init__(
        self,
        environment: bool = True,
        info: bool = True,
        annotations: Sequence[str] = (),
        values: Iterable[str] = (),
    ) -> None:
        """``environment``: redact the values of environment variables, and of the annotations that
        contain whole manifests (MANIFEST_ANNOTATIONS). ``info``: redact the
        ``info`` of verbose statuses. ``annotations``: globs of the annotation keys whose values are
        redacted. ``values``: regular expressions, see :class:`Matcher`, whose matches are redacted
        in every string.

        Raises ValueError for an invalid regular expression.
        """
        self._environment = environment
        self._info = info
        globs = "|".join(
            map(translate, [*annotations, *(MANIFEST_ANNOTATIONS if environment else ())])
        )
        self._annotation = re.compile(globs).match if globs else None
        self._matchers = tuple(map(Matcher, values))
        self._text: _Convert | None = self.text if self._matchers else None
        self._conversions = _Conversions(self._conversion)

    @property
    def redacts_text(self) -> bool:
        """Whether :meth:`text` may change anything."""
        return bool(self._matchers)

    def text(self, text: str) -> str:
        """Return a string with marks in place of the matches of ``values``."""
        if not self._matchers:
            return text
        data = text.encode(errors=_SURROGATES)
        spans = [span for matcher in self._matchers for span in matcher.spans(data)]
        if not spans:
            return text
        pieces = []
        done = 0
        for start, end in merged_spans(spans):
            redacted = data[start:end].decode(errors=_SURROGATES)
            pieces += [data[done:start].decode(errors=_SURROGATES), mark(len(_encode(redacted)))]
            done = end
        return "".join([*pieces, data[done:].decode(errors=_SURROGATES)])

    def texts(self, value: Any) -> Any:
        """Return plain data with :meth:`text` applied to all strings within, including keys."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.texts(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return list(map(self.texts, value))
        return value

    def to_json(self, message: Message) -> dict[str, Any]:
        """Return a message as plain data for JSON."""
        conversions = self._conversions
        result = {}
        for field, value in message.ListFields():
            name, convert = conversions[field]
            result[name] = value if convert is None else convert(value)
        return result

    def redact(self, message: Message) -> None:
        """Replace the secrets of a message by marks, in place, and remove its unknown fields.

        What :meth:`to_json` shows of the message stays the same.
        """
        message.DiscardUnknownFields()
        self._redact(message)

    def _redact(self, message: Message) -> None:
        for field, value in message.ListFields():
            if is_map(field):
                self._redact_map(field, value)
            elif field.message_type is not None:
                for each in value if field.is_repeated else (value,):
                    self._redact(each)
            elif (convert := self._replacement(field)) is not None:
                if field.is_repeated:
                    value[:] = map(convert, value)
                else:
                    setattr(message, field.name, convert(value))

    def _replacement(self, field: FieldDescriptor) -> _Convert | None:
        """Return what replaces the values of a field that is no message; None: nothing does."""
        is_bytes = field.type == FieldDescriptor.TYPE_BYTES
        if self._is_redacted(field):
            to_mark = _mark_of_environment if _is_environment(field) else _mark_of
            return (lambda value: to_mark(value).encode()) if is_bytes else to_mark
        if is_bytes:
            return self._bytes if self._matchers else None
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return self._value_conversion(field)
        return None

    def _redact_map(self, field: FieldDescriptor, entries: Any) -> None:
        convert = self._conversions[field].convert
        assert field.message_type is not None
        assert convert is not None
        if field.message_type.fields_by_name["value"].type != FieldDescriptor.TYPE_STRING:
            for key in entries:  # no field of the CRI's is a map with keys that tell a secret
                self._redact(entries[key])
            return
        redacted = convert(entries)
        if redacted != dict(entries):
            entries.clear()
            entries.update(redacted)

    def _conversion(self, field: FieldDescriptor) -> _Conversion:
        if is_map(field):
            return _Conversion(field.json_name, self._map_conversion(field))
        convert = _mark_of if self._is_redacted(field) else self._value_conversion(field)
        if convert is _mark_of and _is_environment(field):
            convert = _mark_of_environment
        if field.is_repeated:
            return _Conversion(field.json_name, _each(convert))
        return _Conversion(field.json_name, convert)

    def _is_redacted(self, field: FieldDescriptor) -> bool:
        return is_secret(field) or (self._environment and _is_environment(field))

    def _value_conversion(self, field: FieldDescriptor) -> _Convert | None:
        if field.message_type is not None:
            return self.to_json
        if field.type == FieldDescriptor.TYPE_BYTES:
            return self._base64
        if is_status_text(field):
            return lambda value: self.text(redact_text(value))
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return self._text
        if field.enum_type is not None:
            names = {each.number: each.name for each in field.enum_type.values}
            return lambda value: names.get(value, value)
        if field.cpp_type in _LONG:
            return str
        return _number if field.cpp_type in _FLOATS else None

    def _map_conversion(self, field: FieldDescriptor) -> _Convert:
        """Return the conversion of a map field; the keys of all maps of the CRI are strings."""
        assert field.message_type is not None
        if is_secret(field) or (self._info and field.name == "info"):
            convert: _Convert | None = _mark_of
        else:
            convert = self._value_conversion(field.message_type.fields_by_name["value"])
        is_redacted = self._annotation if field.name == "annotations" else None
        if is_redacted is None and self._text is None and convert is None:
            return lambda entries: {key: entries[key] for key in entries}

        def converted(entries: Any) -> dict[str, Any]:
            result = {}
            for key in entries:
                value = entries[key]
                if is_redacted is not None and is_redacted(key):
                    value = _mark_of(value)
                elif convert is not None:
                    value = convert(value)
                result[self.text(key)] = value
            return result

        return converted

    def _base64(self, value: bytes) -> str:
        return b64encode(self._bytes(value)).decode()

    def _bytes(self, value: bytes) -> bytes:
        if not self._matchers:
            return value
        return _encode(self.text(value.decode(errors="surrogateescape")))


def _each(convert: _Convert | None) -> _Convert:
    if convert is None:
        return list
    return lambda values: [convert(value) for value in values]


def _mark_of(value: Any) -> str:
    if isinstance(value, Message):
        return mark(value.ByteSize())
    return mark(len(value if isinstance(value, bytes) else _encode(str(value))))


def _is_environment(field: FieldDescriptor) -> bool:
    owner = field.containing_type
    return owner is not None and owner.name == "KeyValue" and field.name == "value"


def _mark_of_environment(value: bytes | str) -> str:
    return mark(len(value if isinstance(value, bytes) else bytes_of(value)))


def _encode(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _number(value: float) -> float | str:
    """Return a floating-point number, or protobuf's JSON string for one that JSON cannot write."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
