"""The fields of requests that the CRI's definition marks as deprecated."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, cast

from google.protobuf.descriptor import Descriptor

from criproxy.cri.messages import request_class
from criproxy.cri.methods import METHODS


@dataclass(frozen=True, slots=True, order=True)
class DeprecatedField:
    """A field: the method, its path in the protobuf definition, and that in the JSON mapping."""

    method: str
    name: str
    json_path: str


def _fields() -> Iterator[DeprecatedField]:
    for method in METHODS.values():
        descriptor = cast(Descriptor, request_class(method).DESCRIPTOR)
        for name, json_path in _within(descriptor, "", "$", ()):
            yield DeprecatedField(method.name, name, json_path)


def _within(
    message: Descriptor, name: str, json_path: str, above: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    """Yield the deprecated fields of a message and of the single messages in it."""
    for field in message.fields:
        path = f"{name}{field.name}", f"{json_path}.{field.json_name}"
        if field.GetOptions().deprecated:
            yield path
        inner = field.message_type
        if inner is not None and not field.is_repeated and inner.full_name not in above:
            yield from _within(inner, f"{path[0]}.", path[1], (*above, inner.full_name))


DEPRECATED: Final = tuple(sorted(set(_fields())))
"""The deprecated fields, of all versions of the API; those in lists are not among them."""
