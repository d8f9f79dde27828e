"""Reads the trace context that a caller sends (W3C Trace Context, https://www.w3.org/TR/trace-context)."""

import re
from typing import Final, NamedTuple

SAMPLED: Final = 0x01
"""The flag of ``trace-flags`` by which a caller says that it may have recorded its span."""

_FORM: Final = re.compile(
    rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
)


class TraceParent(NamedTuple):
    """The span of a caller that a call is a child of."""

    trace_id: bytes
    """16 bytes."""
    span_id: bytes
    """8 bytes."""
    sampled: bool
    """Whether the caller may have recorded its span."""


def parse_traceparent(value: bytes) -> TraceParent | None:
    """Return the parent that a header's value names; None for what is malformed or names none.

    Of a version after 00 the fields of version 00 are read, as the specification asks ("Versioning
    of traceparent").
    """
    found = _FORM.fullmatch(value)
    if found is None:
        return None
    version, trace_id, span_id, flags, further = found.groups()
    if version == b"ff" or (version == b"00" and further is not None):
        return None
    parent = TraceParent(
        bytes.fromhex(trace_id.decode()),
        bytes.fromhex(span_id.decode()),
        bool(int(flags, 16) & SAMPLED),
    )
    return parent if any(parent.trace_id) and any(parent.span_id) else None
