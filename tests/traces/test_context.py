"""parse_traceparent: the header of W3C Trace Context."""

import pytest

from criproxy.traces.context import TraceParent, parse_traceparent

TRACE = b"0af7651916cd43dd8448eb211c80319c"
SPAN = b"b7ad6b7169203331"
PARENT = TraceParent(bytes.fromhex(TRACE.decode()), bytes.fromhex(SPAN.decode()), sampled=True)


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (b"00-" + TRACE + b"-" + SPAN + b"-01", True),
        (b"00-" + TRACE + b"-" + SPAN + b"-00", False),
        (b"00-" + TRACE + b"-" + SPAN + b"-03", True),  # a further flag of Level 2
        (b"00-" + TRACE + b"-" + SPAN + b"-02", False),
        (b"cc-" + TRACE + b"-" + SPAN + b"-01", True),  # a later version
        (b"cc-" + TRACE + b"-" + SPAN + b"-01-what-comes", True),
    ],
)
def test_a_parent(value: bytes, sampled: bool) -> None:
    """The ids are read, and of the flags whether the caller has sampled its span."""
    assert parse_traceparent(value) == PARENT._replace(sampled=sampled)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"nonsense",
        b"00-" + TRACE + b"-" + SPAN,
        b"00-" + TRACE + b"-" + SPAN + b"-01-more",  # version 00 has nothing more
        b"00-" + TRACE + b"-" + SPAN + b"-01 ",
        b"cc-" + TRACE + b"-" + SPAN + b"-01.more",
        b"ff-" + TRACE + b"-" + SPAN + b"-01",  # no version
        b"00-" + TRACE.upper() + b"-" + SPAN + b"-01",
        b"00-" + b"0" * 32 + b"-" + SPAN + b"-01",
        b"00-" + TRACE + b"-" + b"0" * 16 + b"-01",
        b"00-" + TRACE[:-1] + b"g-" + SPAN + b"-01",
        b"00-" + TRACE + b"-" + SPAN + b"-0",
        b"\xff\x00" * 20,
    ],
)
def test_what_is_no_parent(value: bytes) -> None:
    """What is malformed, or names no span, is ignored."""
    assert parse_traceparent(value) is None
