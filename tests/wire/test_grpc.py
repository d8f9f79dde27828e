"""gRPC over HTTP/2: messages, codes, timeouts."""

import grpc as grpcio
import pytest

from criproxy.wire import grpc
from criproxy.wire.grpc import MessageCounter, StatusCode
from tests.support.wire import CUTS, message


def counted(data: bytes, cut_at: int) -> tuple[int, int]:
    counter = MessageCounter()
    counter.feed(data, 0, cut_at)
    counter.feed(b"\xff" * 7 + data, 7 + cut_at, 7 + len(data))
    return counter.messages, counter.bytes


def test_messages_cut_anywhere() -> None:
    """Messages and their bytes are counted alike wherever the bytes are cut and lie."""
    data = message(b"abc") + message() + message(b"x" * 300, compressed=True) + message(b"")
    for cut_at in range(len(data) + 1):
        assert counted(data, cut_at) == (4, 303)
    for cut in CUTS:
        counter = MessageCounter()
        for piece in cut(data):
            counter.feed(piece, 0, len(piece))
        assert (counter.messages, counter.bytes) == (4, 303)


def test_an_unfinished_message() -> None:
    """The bytes of an unfinished message count, the message does not; a prefix is neither."""
    counter = MessageCounter()
    data = message(b"0123456789")
    counter.feed(data, 0, 5)
    assert (counter.messages, counter.bytes) == (0, 0)
    counter.feed(data, 5, 14)
    assert (counter.messages, counter.bytes) == (0, 9)
    counter.feed(data, 14, 15)
    assert (counter.messages, counter.bytes) == (1, 10)


def test_a_message_of_the_largest_length() -> None:
    """A length has 32 bits without a sign."""
    counter = MessageCounter()
    counter.feed(b"\0\xff\xff\xff\xffabc", 0, 8)
    assert (counter.messages, counter.bytes) == (0, 3)


def test_status_codes_are_those_of_grpc() -> None:
    """Names and numbers are grpcio's."""
    assert {code.name: code.value for code in StatusCode} == {
        code.name: code.value[0] for code in grpcio.StatusCode
    }


@pytest.mark.parametrize("code", StatusCode)
def test_each_status(code: StatusCode) -> None:
    """Each known code is read as itself."""
    assert grpc.parse_status(b"%d" % code) is code


@pytest.mark.parametrize(
    "value", [b"", b"17", b"-1", b"99999", b"1_0", b" 5", b"+5", b"x", b"\xb2"]
)
def test_a_status_that_is_none(value: bytes) -> None:
    """A grpc-status that is no known code is UNKNOWN."""
    assert grpc.parse_status(value) is StatusCode.UNKNOWN


def test_a_status_longer_than_numbers_may_be() -> None:
    """No length of digits does any harm."""
    assert grpc.parse_status(b"1" * 10_000) is StatusCode.UNKNOWN


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (b"400", StatusCode.INTERNAL),
        (b"401", StatusCode.UNAUTHENTICATED),
        (b"403", StatusCode.PERMISSION_DENIED),
        (b"404", StatusCode.UNIMPLEMENTED),
        (b"429", StatusCode.UNAVAILABLE),
        (b"502", StatusCode.UNAVAILABLE),
        (b"503", StatusCode.UNAVAILABLE),
        (b"504", StatusCode.UNAVAILABLE),
        (b"200", StatusCode.UNKNOWN),
        (b"500", StatusCode.UNKNOWN),
        (b"", StatusCode.UNKNOWN),
    ],
)
def test_the_code_of_a_http_status(status: bytes, code: StatusCode) -> None:
    """A :status without a grpc-status maps as http-grpc-status-mapping.md has it."""
    assert grpc.code_of_http(status) is code


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"10S", 10.0),
        (b"10100m", 10.1),
        (b"59998327u", 59.998327),
        (b"99999999n", 0.099999999),
        (b"0n", 0.0),
        (b"00000001S", 1.0),
        (b"", None),
        (b"S", None),
        (b"10", None),
        (b"10s", None),
        (b"-1S", None),
        (b"+1S", None),
        (b" 1S", None),
        (b"1.5S", None),
        (b"1_0S", None),
        (b"123456789S", None),
    ],
)
def test_timeouts(value: bytes, seconds: float | None) -> None:
    """A grpc-timeout is up to eight digits and a unit; anything else is none."""
    assert grpc.parse_timeout(value) == (seconds if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"", ""),
        (b"not found", "not found"),
        (b"%09tab%0A%E2%98%BA", "\ttab\n☺"),
        (b"100%", "100%"),
        (b"%zz %4", "%zz %4"),
        (b"%ff raw \xff", "� raw �"),
    ],
)
def test_messages_are_percent_encoded(value: bytes, text: str) -> None:
    """A grpc-message is decoded as far as it can be, and never refused."""
    assert grpc.parse_message(value) == text
