"""Amounts of bytes, as the configuration writes them."""

import re
from typing import Final

_BYTES: Final = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE: Final = re.compile(r"(\d+) ?(|B|KiB|MiB|GiB)")


class Size(int):
    """Bytes, written ``65536``, ``64KiB``, ``16MiB``."""


def parse_size(text: str) -> int:
    """Read a size in bytes. Raises ValueError, saying how to write one."""
    found = _SIZE.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is not a size; write it like 65536, 64KiB or 16MiB")
    return int(found[1]) * _BYTES[found[2]]
