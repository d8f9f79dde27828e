"""Durations as Go and Kubernetes write them: ``30s``, ``1m30s``."""

import re
from typing import Final

_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


class Duration(float):
    """Seconds, as the configuration has them: written ``30s``, ``500ms``, ``1m30s``."""


def parse_duration(text: str) -> float:
    """Read a duration as Go and Kubernetes write it (``10s``, ``1m30s``, ``0``), in seconds.

    Raises ValueError, saying how to write one.
    """
    if text == "0":
        return 0.0
    total = 0.0
    position = 0
    while found := _PART.match(text, position):
        total += float(found[1]) * _SECONDS[found[2]]
        position = found.end()
    if position == len(text) and text:
        return total
    raise ValueError(f"{text!r} is not a duration; write it like 30s, 500ms or 1m30s")
