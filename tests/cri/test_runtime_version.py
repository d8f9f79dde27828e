"""The names of a runtime are read without protobuf as protobuf reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.cri.runtime_version import RuntimeVersion, parse_runtime_version

SHORT = st.text(st.characters(codec="utf-8"), max_size=60)
"""At most 240 bytes."""


@given(SHORT, SHORT, SHORT, st.binary(max_size=40))
def test_as_protobuf(name: str, version: str, api: str, more: bytes) -> None:
    """Name and version are those of the message, with fields of a later API before them."""
    message = v1.VersionResponse(
        version="0.1.0", runtime_name=name, runtime_version=version, runtime_api_version=api
    )
    later = b"\xf8\x01\x96\x01" + b"\xf9\x0112345678" + b"\xfd\x011234" + b"\xfa\x01\x02hi"
    read = parse_runtime_version(later + message.SerializeToString())
    assert read == RuntimeVersion(name, version)
    parse_runtime_version(message.SerializeToString() + more)  # anything may follow


@pytest.mark.parametrize(
    "response", [b"", b"\x12", b"\x12\xff", b"\x13", b"\x80" * 20, b"\x12" + b"\xff" * 9 + b"\x01"]
)
def test_malformed(response: bytes) -> None:
    """What cannot be read has no names."""
    assert parse_runtime_version(response) == RuntimeVersion()


def test_long_names_are_cut() -> None:
    """A line of the log has at most 256 bytes of each."""
    message = v1.VersionResponse(runtime_name="n" * 1000, runtime_version="2.1.4")
    read = parse_runtime_version(message.SerializeToString())
    assert read == RuntimeVersion("n" * 256, "2.1.4")
