"""Parses durations, sizes in bytes and file modes of the configuration."""

import re
from typing import Final

_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST: Final = 100 * 365 * 86400.0
"""Seconds. Timers cannot be set to more than a few hundred years."""

_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


class Duration(float):
    """Seconds, written ``30s``, ``500ms``, ``1m30s``."""


def parse_duration(text: str) -> float:
    """Return the seconds of a duration in the notation of Go and Kubernetes: ``1m30s``, ``0``.

    Raises ValueError with a message for the user.
    """
    if text == "0":
        return 0.0
    total = 0.0
    position = 0
    while found := _PART.match(text, position):
        total += float(found[1]) * _SECONDS[found[2]]
        position = found.end()
    if total > _LONGEST:
        raise ValueError(f"{text!r} is longer than a hundred years")
    if position == len(text) and text:
        return total
    raise ValueError(f"{text!r} is not a duration; write it like 30s, 500ms or 1m30s")


_BYTES: Final = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE: Final = re.compile(r"(\d{1,18}) ?(|B|KiB|MiB|GiB)")


class Size(int):
    """Bytes, written ``65536``, ``64KiB``, ``16MiB``."""


def parse_size(text: str) -> int:
    """Return a size in bytes. Raises ValueError with a message for the user."""
    found = _SIZE.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is not a size; write it like 65536, 64KiB or 16MiB")
    return int(found[1]) * _BYTES[found[2]]


_LARGEST_MODE: Final = 0o777


class Mode(int):
    """A file's permission bits, written as an octal string: ``"0660"``."""


def parse_mode(text: str) -> int:
    """Return permission bits. Raises ValueError with a message for the user."""
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= _LARGEST_MODE:
        raise ValueError(f'{text!r} is not a file mode; write it in octal and quoted: "0660"')
    return mode
