"""Pauses before a process that has ended by itself is started anew."""

from typing import Final

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 30.0
_STABLE: Final = 60.0
"""Seconds after which a process that ends is started at once again."""


class Backoff:
    """Counts the ends of one process: no pause at first, then pauses that double up to 30 s."""

    def __init__(self) -> None:
        self._pause = 0.0

    def next_pause(self, lasted: float) -> float:
        """Return the seconds to wait after a process that has lasted for so many seconds."""
        pause = 0.0 if lasted > _STABLE else self._pause
        self._pause = min(max(2 * pause, _FIRST_PAUSE), _LONGEST_PAUSE)
        return pause
