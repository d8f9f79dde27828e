"""What a listener's profile lets its clients do, and lets them see."""

from typing import Literal

from msgspec import field

from criproxy.rules.spec import Globs
from criproxy.section import Section

Scrub = Literal["environment", "info", "mounts"]


class ProfileSpec(Section, frozen=True):
    """A profile that the configuration has. What it does not allow is denied."""

    methods: Globs
    """Globs, as in rules, or groups: ``@read``, ``@mutating``, ``@exec``."""
    namespaces: Globs | None = None
    """Pods of these alone. None: of all."""
    own_pod: bool = False
    """The caller's own pod alone."""
    scrub: list[Scrub] = field(default_factory=lambda: ["environment", "info"])
    """What is taken out of responses."""
