"""Reads the number of repetitions of each section from the environment."""

import os
from dataclasses import dataclass, fields, replace
from typing import Final, Self


@dataclass(frozen=True, slots=True)
class Sizes:
    """Counts and durations of the sections.

    Each is set by an environment variable with the prefix ``CHAOS_``: ``CHAOS_RESTARTS=20``.
    """

    restarts: int = 200
    upgrades: int = 50
    reloads: int = 50
    kills: int = 50
    """Of each kind of process."""
    outages: int = 50
    """Restarts of the runtime."""
    attack_calls: int = 500
    """Calls of the full listener's client with and without each attack."""
    soak_seconds: int = 3600
    soak_rate: int = 200
    """Calls a second."""
    faults: int = 5
    """Repetitions of each fault."""
    long_call: int = 20
    """Seconds that the call lasts that is in flight across restarts and upgrades."""

    @classmethod
    def from_environment(cls, base: "Sizes | None" = None) -> Self:
        """Return ``base``, or the defaults, with what the environment sets. Raises ValueError."""
        given = {}
        for each in fields(cls):
            name = f"CHAOS_{each.name.upper()}"
            if text := os.environ.get(name):
                if not text.isdecimal():
                    raise ValueError(f"{name}={text}: has to be a number")
                given[each.name] = int(text)
        return replace(base or cls(), **given)  # type: ignore[return-value]


QUICK: Final = Sizes(
    restarts=3,
    upgrades=2,
    reloads=3,
    kills=1,
    outages=2,
    attack_calls=30,
    soak_seconds=6,
    soak_rate=50,
    faults=1,
    long_call=2,
)
"""A short form: does everything work?"""
