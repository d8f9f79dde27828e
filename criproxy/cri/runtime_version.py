"""Reads the names of a runtime in its answer to Version.

Without protobuf, which the supervisor does not load: all fields that matter are texts.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

_MOST_BYTES: Final = 256
"""Bytes of a name or version that are read: they end up in a line of the log."""

_RUNTIME_NAME, _RUNTIME_VERSION = 2, 3
"""The fields of VersionResponse, in v1 and v1alpha2."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class RuntimeVersion(NamedTuple):
    """What a runtime calls itself: ``containerd`` and ``2.1.4``. Empty where it does not say."""

    name: str = ""
    version: str = ""


def parse_runtime_version(response: bytes) -> RuntimeVersion:
    """Return the names in a VersionResponse, as far as it can be read."""
    texts = dict(_texts(response))
    return RuntimeVersion(texts.get(_RUNTIME_NAME, ""), texts.get(_RUNTIME_VERSION, ""))


def _texts(message: bytes) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each length-delimited field, up to a malformed one."""
    at = 0
    try:
        while at < len(message):
            tag, at = _varint(message, at)
            kind = tag & 7
            if kind == _VARINT:
                _, at = _varint(message, at)
            elif kind == _FIXED64:
                at += 8
            elif kind == _FIXED32:
                at += 4
            elif kind == _BYTES:
                length, at = _varint(message, at)
                yield tag >> 3, message[at : at + min(length, _MOST_BYTES)].decode(errors="replace")
                at += length
            else:
                return
    except IndexError:
        return


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the number at an offset, and the offset behind it. Raises IndexError."""
    number = shift = 0
    while True:
        byte = message[at]
        number |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return number, at
        shift += 7
        if shift > 63:
            raise IndexError
