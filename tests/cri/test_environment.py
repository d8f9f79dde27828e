"""Values of environment variables that are not UTF-8."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from criproxy.cri.environment import bytes_of, decode_message, encode_message, text_of
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.cri.pb import runtime_v1alpha2_pb2 as v1alpha2

VALUES = st.binary(max_size=8) | st.lists(
    st.sampled_from([b"a", b"\xf4\x8f\xbe\x80", b"\xf4\x8f\xbf\xbf", b"\xf4\x8f\xbe", b"\xff"])
).map(b"".join)


def request(*values: bytes) -> bytes:
    """Encode a CreateContainerRequest: the two versions are the same on the wire."""
    config = v1.ContainerConfig(
        metadata=v1.ContainerMetadata(name="main"),
        envs=[v1.KeyValue(key="K", value=value) for value in values],
    )
    data: bytes = v1.CreateContainerRequest(pod_sandbox_id="p", config=config).SerializeToString()
    return data


@given(VALUES)
def test_texts_lead_back(value: bytes) -> None:
    """Each value has one text, which leads back to it."""
    text = text_of(value)
    assert bytes_of(text) == value
    text.encode()


@given(st.text())
def test_text_is_utf8(text: str) -> None:
    """The text of UTF-8 without private use is the decoded value."""
    if not any(each >= "\U0010ff80" for each in text):
        assert text_of(text.encode()) == text
        assert bytes_of(text) == text.encode()


@given(st.lists(VALUES, max_size=3))
def test_messages_of_v1alpha2(values: list[bytes]) -> None:
    """A message of v1alpha2 is decoded whatever its values are, and encoded to the same bytes."""
    data = request(*values)
    message = decode_message(v1alpha2.CreateContainerRequest, data)
    assert message.config.metadata.name == "main"
    assert [each.value for each in message.config.envs] == [text_of(value) for value in values]
    assert encode_message(message) == data


def test_messages_of_v1() -> None:
    """In v1 values are bytes, and stay so."""
    data = request(b"\xff", b"\xf4\x8f\xbe\x80")
    message = decode_message(v1.CreateContainerRequest, data)
    assert [each.value for each in message.config.envs] == [b"\xff", b"\xf4\x8f\xbe\x80"]
    assert encode_message(message) == data


def test_other_errors() -> None:
    """A message that is invalid in another way is not decoded."""
    invalid = v1.CreateContainerRequest(pod_sandbox_id="p").SerializeToString()[:-1] + b"\xff"
    for kind in (v1.CreateContainerRequest, v1alpha2.CreateContainerRequest):
        for data in (invalid, b"\xff"):
            with pytest.raises(DecodeError):
                decode_message(kind, data)
