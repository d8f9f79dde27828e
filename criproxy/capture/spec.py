"""The configuration's section ``capture``."""

from typing import Final

from msgspec import field

from criproxy.audit.spec import RedactSpec
from criproxy.configtypes.section import Section
from criproxy.configtypes.values import Duration, Size
from criproxy.cri.naming import GROUPS
from criproxy.rules.spec import Globs
from criproxy.timeline.filters import CallFilter
from criproxy.wire.grpc import StatusCode

_CODES: Final = frozenset(code.name for code in StatusCode) | {"UNREAD"}

_SMALLEST: Final = 1 << 20
"""Bytes of a ring below which it has a few seconds."""


class CaptureTriggerSpec(Section, frozen=True):
    """The conditions on a call that is waited for, all of which it has to meet."""

    slower_than: Duration | None = None
    """How long the call has to take; one that hangs counts as soon as it has run for so long.
    Streams take no time. null: any duration."""
    codes: list[str] | None = None
    """Names of the gRPC codes with which the call may end; `"!OK"` is all others than that one.
    null: all."""
    methods: Globs | None = None
    """Globs of methods, or the groups `@read`, `@mutating` and `@exec`. null: all."""
    namespaces: Globs | None = None
    """Globs of the pod's namespace. null: all, and calls that are about no pod."""
    pods: Globs | None = None
    """Globs of the pod's name. null: all, and calls that are about no pod."""
    executables: Globs | None = None
    """Globs of the caller's executable, its path or its file name. null: all."""

    def __post_init__(self) -> None:
        if self.filter == CallFilter():
            raise ValueError(
                "a trigger needs a condition: slower_than, codes, methods, namespaces, pods or "
                "executables"
            )
        for pattern in self.methods or ():
            if pattern.startswith("@") and pattern not in GROUPS:
                raise ValueError(f"{pattern!r} is no group of methods: {', '.join(GROUPS)}")
        for code in self.codes or ():
            if code.removeprefix("!") not in _CODES:
                raise ValueError(f'{code!r} is no gRPC code; write it like NOT_FOUND, or "!OK"')

    @property
    def filter(self) -> CallFilter:
        """The conditions as they are applied to calls."""
        return CallFilter(
            methods=tuple(self.methods or ()),
            namespaces=tuple(self.namespaces or ()),
            pods=tuple(self.pods or ()),
            callers=tuple(self.executables or ()),
            codes=tuple(self.codes or ()),
            slower_than=self.slower_than or 0.0,
        )


class CaptureSpec(Section, frozen=True):
    """Recordings of the last minutes before a call that is waited for."""

    directory: str
    """The directory in which cassettes are written. It is created if it is missing, for its owner
    alone."""
    triggers: list[CaptureTriggerSpec] = field(default_factory=list)
    """The calls for which a cassette is written: those that meet one of these. Without any,
    cassettes are written by `criproxy capture` alone."""
    ring: Size = Size(32 << 20)
    """Bytes of the last calls with their messages that are kept in memory, compressed. A node with
    110 pods fills 32MiB in some twenty minutes."""
    after: Duration = Duration(10)
    """How long a cassette goes on after the call for which it is written."""
    interval: Duration = Duration(60)
    """The time after the beginning of a cassette in which further triggers begin no other one; they
    are counted."""
    files: int = 10
    """The number of cassettes that are kept in the directory; the oldest are removed."""
    file_size: Size = Size(128 << 20)
    """The size of a cassette at which it ends."""
    total_size: Size = Size(512 << 20)
    """The size of all cassettes in the directory together; the oldest are removed."""
    redact: RedactSpec | None = RedactSpec()
    """What is redacted in messages before they are kept, beside credentials of registries. null:
    nothing is, not even those."""
    node: str | None = None
    """The name of this node in cassettes. null: the host name."""

    def __post_init__(self) -> None:
        if self.ring < _SMALLEST:
            raise ValueError("ring has to be at least 1MiB")
        if self.file_size < 2 * self.ring:
            raise ValueError(
                "file_size has to be at least twice the ring, so that what follows has room, too"
            )
        if self.total_size < self.file_size:
            raise ValueError("total_size has to be at least file_size")
        if self.files < 1:
            raise ValueError("files has to be at least 1")
