"""Calls that the runtime ends: their events, for every cut of their bytes."""

import pytest

from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.connection import CallBegan, CallEnded, ConnectionReader, Side
from tests.support import wire
from tests.support.wire import Began, Ended, check, client, conversation, message, runtime

ABC = message(b"abc")


def test_unary() -> None:
    """A unary call is reported as it begins and, with its counts, as it ends."""
    check(
        conversation(
            client(wire.request(1), wire.data(1, message(b"ask"), end=True)),
            runtime(wire.response(1), wire.data(1, message(b"answer")), wire.trailers(1)),
        ),
        Began(1),
        Ended(1, request=(1, 3), response=(1, 6)),
    )


def test_client_streaming() -> None:
    """Every message of the client's counts, and its end may come as an empty DATA frame."""
    check(
        conversation(
            client(wire.request(1), *[wire.data(1, ABC)] * 20, wire.data(1, end=True)),
            runtime(wire.response(1), wire.data(1, ABC), wire.trailers(1)),
        ),
        Began(1),
        Ended(1, request=(20, 60), response=(1, 3)),
    )


def test_server_streaming() -> None:
    """Response headers may come long before the first message."""
    check(
        conversation(
            client(wire.request(1), wire.data(1, ABC, end=True)),
            runtime(wire.response(1)),
            *[runtime(wire.data(1, ABC * 2))] * 10,
            runtime(wire.trailers(1)),
        ),
        Began(1),
        Ended(1, request=(1, 3), response=(20, 60)),
    )


def test_bidirectional_streaming() -> None:
    """Messages of both sides interleave, and the runtime may end before the client does."""
    turn = [client(wire.data(1, ABC)), runtime(wire.data(1, message(b"defg")))]
    check(
        conversation(
            client(wire.request(1)), runtime(wire.response(1)), *turn * 5, runtime(wire.trailers(1))
        ),
        Began(1),
        Ended(1, request=(5, 15), response=(5, 20)),
    )


def test_messages_cut_by_frames() -> None:
    """A message may be spread over frames, padded or empty, and its prefix too."""
    payload = message(b"0123456789") + message(b"")
    frames = [wire.data(1, payload[n : n + 1], padding=n % 3) for n in range(len(payload))]
    frames.insert(3, wire.data(1))
    check(
        conversation(
            client(wire.request(1), *frames, wire.data(1, end=True)),
            runtime(wire.response(1), *frames, wire.trailers(1)),
        ),
        Began(1),
        Ended(1, request=(2, 10), response=(2, 10)),
    )


def test_interleaved_streams() -> None:
    """Streams do not mix: counts, ends and half-closes are each stream's own."""
    check(
        conversation(
            client(wire.request(1, path=b"/a"), wire.request(3, path=b"/b"), wire.data(1, ABC[:4])),
            client(wire.data(3, message(b"x" * 9), end=True), wire.data(1, ABC[4:], end=True)),
            runtime(wire.response(3), wire.response(1), wire.data(3, ABC[:6]), wire.data(1, ABC)),
            client(wire.request(5, path=b"/c", end=True)),
            runtime(wire.trailers(1, 5), wire.data(3, ABC[6:]), wire.trailers(3)),
        ),
        Began(1, b"/a"),
        Began(3, b"/b"),
        Began(5, b"/c"),
        Ended(1, code=StatusCode.NOT_FOUND, request=(1, 3), response=(1, 3)),
        Ended(3, request=(1, 9), response=(1, 3)),
    )


@pytest.mark.parametrize("code", StatusCode)
@pytest.mark.parametrize("alone", [False, True])
def test_each_code_in_trailers(code: StatusCode, alone: bool) -> None:
    """Trailers give code and message, behind a response or alone."""
    if alone:
        answer = wire.trailers_only(1, code, b"why%20not")
    else:
        answer = wire.response(1) + wire.trailers(1, code, b"why%20not")
    check(
        conversation(client(wire.request(1, end=True)), runtime(answer)),
        Began(1),
        Ended(1, code=code, message=b"why%20not"),
    )


def test_a_grpc_status_wins_over_the_http_status() -> None:
    """Where both are given, the grpc-status counts."""
    check(
        conversation(
            client(wire.request(1, end=True)),
            runtime(wire.trailers_only(1, 5, b"gone", status=b"503")),
        ),
        Began(1),
        Ended(1, code=StatusCode.NOT_FOUND, message=b"gone"),
    )


@pytest.mark.parametrize("where", ["headers alone", "trailers without one", "data"])
@pytest.mark.parametrize(
    ("status", "code"),
    [(b"404", StatusCode.UNIMPLEMENTED), (b"503", StatusCode.UNAVAILABLE)],
)
def test_no_grpc_status(where: str, status: bytes, code: StatusCode) -> None:
    """Where a grpc-status is missing, the :status gives the code."""
    if where == "headers alone":
        answer = wire.response(1, status=status, end=True)
    elif where == "data":
        answer = wire.response(1, status=status) + wire.data(1, b"<html>", end=True)
    else:
        answer = wire.response(1, status=status) + wire.headers(1, b"", end=True)
    check(
        conversation(client(wire.request(1, end=True)), runtime(answer)),
        Began(1),
        Ended(
            1,
            code=code,
            message=b"no grpc-status, :status " + status,
            # "<html" is taken for a prefix and ">" for the first byte of a message.
            response=(0, 1) if where == "data" else (0, 0),
        ),
    )


def test_a_success_without_a_grpc_status() -> None:
    """A :status of 200 without a grpc-status is UNKNOWN; without trailers it is INTERNAL."""
    check(
        conversation(
            client(wire.request(1, end=True), wire.request(3, end=True), wire.request(5, end=True)),
            runtime(wire.response(1), wire.headers(1, b"", end=True)),
            runtime(wire.response(3), wire.data(3, ABC, end=True)),
            runtime(wire.data(5, b"", end=True)),
        ),
        *(Began(stream) for stream in (1, 3, 5)),
        Ended(1, code=StatusCode.UNKNOWN, message=b"no grpc-status, :status 200"),
        Ended(
            3,
            code=StatusCode.INTERNAL,
            message=b"the stream ended without trailers",
            response=(1, 3),
        ),
        Ended(5, code=StatusCode.INTERNAL, message=b"the stream ended without trailers"),
    )


def test_informational_responses() -> None:
    """Responses of 1xx come before the response and do not give the call its status."""
    check(
        conversation(
            client(wire.request(1, end=True)),
            runtime(wire.response(1, status=b"100"), wire.response(1, status=b"103")),
            runtime(wire.response(1, status=b"404"), wire.data(1, b"", end=True)),
        ),
        Began(1),
        Ended(1, code=StatusCode.UNIMPLEMENTED, message=b"no grpc-status, :status 404"),
    )


def test_fields_of_informational_responses() -> None:
    """What a response of 1xx carries is not the call's status, nor does the response begin."""
    early = [(b":status", b"103"), (b"grpc-status", b"5"), (b"grpc-message", b"early")]
    sent = conversation(
        client(wire.request(1, end=True)),
        runtime(wire.headers(1, wire.block(*early)), now=1.0),
        runtime(wire.trailers_only(1, 7, b"no"), now=2.0),
    )
    check(sent, Began(1), Ended(1, code=StatusCode.PERMISSION_DENIED, message=b"no"))
    reader = ConnectionReader()
    wire.read(reader, sent[:-1])
    call = reader.call(1)
    assert call is not None
    assert (call.first_byte, call.http_status) == (None, b"")
    wire.read(reader, sent[-1:])
    assert (call.first_byte, call.http_status) == (2.0, b"200")


def test_informational_response_that_ends() -> None:
    """A response of 1xx alone is malformed: clients report INTERNAL, whatever it carries."""
    fields = [(b":status", b"103"), (b"grpc-status", b"0")]
    check(
        conversation(
            client(wire.request(1, end=True)),
            runtime(wire.headers(1, wire.block(*fields), end=True)),
        ),
        Began(1),
        Ended(
            1,
            code=StatusCode.INTERNAL,
            message=b"the stream ended with an informational response",
        ),
    )


def test_only_the_first_status_is_the_response_s() -> None:
    """Headers that follow the response's without an end change nothing."""
    check(
        conversation(
            client(wire.request(1, end=True)),
            runtime(wire.response(1, status=b"404"), wire.response(1, status=b"503")),
            runtime(wire.data(1, b"", end=True)),
        ),
        Began(1),
        Ended(1, code=StatusCode.UNIMPLEMENTED, message=b"no grpc-status, :status 404"),
    )


def test_frames_behind_the_end_are_ignored() -> None:
    """Later frames of a call that has ended report nothing."""
    check(
        conversation(
            client(wire.request(1), wire.request(3)),
            runtime(wire.trailers_only(1, 0)),
            client(wire.data(1, ABC), wire.data(1, end=True), wire.reset(1)),
            client(wire.headers(1, wire.block((b"a", b"b")), end=True)),
            runtime(wire.response(1), wire.data(1, ABC, end=True), wire.trailers(1), wire.reset(1)),
        ),
        Began(1),
        Began(3),
        Ended(1),
    )


def test_not_grpc() -> None:
    """Of a call whose content is not gRPC's, bytes are counted as they are, and no messages."""
    check(
        conversation(
            client(wire.request(1, content_type=b"text/plain"), wire.data(1, ABC, end=True)),
            runtime(wire.response(1), wire.data(1, ABC * 3, end=True)),
        ),
        Began(1),
        Ended(
            1,
            code=StatusCode.INTERNAL,
            message=b"the stream ended without trailers",
            request=(0, 8),
            response=(0, 24),
        ),
    )


@pytest.mark.parametrize("content_type", [b"application/grpc+proto", b"application/grpc;x"])
def test_content_types_of_grpc(content_type: bytes) -> None:
    """Whatever begins as gRPC's content type is read as gRPC."""
    check(
        conversation(
            client(wire.request(1, content_type=content_type), wire.data(1, ABC, end=True)),
            runtime(wire.trailers_only(1, 0)),
        ),
        Began(1),
        Ended(1, request=(1, 3)),
    )


def calls_of(*sent: wire.Sent) -> list[Call]:
    """The calls of a conversation, each as it is after all of it."""
    reader = ConnectionReader()
    events = []
    for side, payload, now in conversation(*sent):
        events += reader.receive(side, payload, now)
    return [event.call for event in events if isinstance(event, CallBegan)]


def test_times_and_fields() -> None:
    """A call has the times of its first bytes, and its request's path and timeout."""
    (call,) = calls_of(
        client(wire.request(1, timeout=b"10S"), now=1.0),
        client(wire.data(1, ABC), now=2.0),
        runtime(wire.response(1), now=3.0),
        runtime(wire.data(1, ABC), now=4.0),
        runtime(wire.trailers(1), now=5.0),
    )
    assert (call.path, call.timeout, call.is_grpc) == (wire.PATH, b"10S", True)
    assert (call.began, call.first_byte, call.ended) == (1.0, 3.0, 5.0)
    assert call.http_status == b"200"
    assert call.overhead == 0.0


def test_a_running_call_has_no_end() -> None:
    """Until a call ends, its code and its times of response and end are None."""
    (call,) = calls_of(client(wire.request(1)))
    assert (call.end, call.code, call.first_byte, call.ended) == (None, None, None, None)
    assert (call.timeout, call.message, call.http_status) == (b"", b"", b"")


def test_trailers_alone_are_a_first_byte() -> None:
    """A response that is trailers alone begins and ends at once."""
    (call,) = calls_of(client(wire.request(1)), runtime(wire.trailers_only(1, 5), now=2.0))
    assert (call.first_byte, call.ended) == (2.0, 2.0)


@pytest.mark.parametrize(
    "end",
    [
        pytest.param([wire.request(1, end=True)], id="headers"),
        pytest.param([wire.request(1), wire.data(1, ABC, end=True)], id="data"),
        pytest.param([wire.request(1), wire.data(1, end=True)], id="empty data"),
        pytest.param([wire.request(1), wire.headers(1, b"", end=True)], id="trailers"),
    ],
)
def test_half_close(end: list[bytes]) -> None:
    """A client half-closes with END_STREAM on any of its frames, and only then."""
    (call,) = calls_of(client(*end))
    assert call.half_closed
    (call,) = calls_of(client(wire.request(1), wire.data(1, ABC), wire.headers(1, b"")))
    assert not call.half_closed


def test_events_carry_the_call_itself() -> None:
    """Beginning and end carry one object, which the reader forgets at the end."""
    reader = ConnectionReader()
    assert reader.receive(Side.CLIENT, wire.PREFACE + wire.settings(), 0.0) == []
    assert reader.receive(Side.RUNTIME, wire.settings(), 0.0) == []
    (began,) = reader.receive(Side.CLIENT, wire.request(1), 1.0)
    assert reader.calls == (began.call,)  # type: ignore[union-attr]
    (ended,) = reader.receive(Side.RUNTIME, wire.trailers_only(1, 0), 2.0)
    assert isinstance(ended, CallEnded)
    assert ended.call is began.call  # type: ignore[union-attr]
    assert reader.calls == ()


def test_a_response_without_a_status() -> None:
    """Response headers that lack a :status leave the call to its trailers."""
    fields = ((b"content-type", b"application/grpc"),)
    check(
        conversation(
            client(wire.request(1, end=True)),
            runtime(wire.headers(1, wire.block(*fields)), wire.headers(1, b"")),
            runtime(wire.trailers(1, 5)),
        ),
        Began(1),
        Ended(1, code=StatusCode.NOT_FOUND),
    )


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ((), b""),
        ((b"00-a-b-01",), b"00-a-b-01"),
        ((b"1", b"2"), b""),
        ((b"1", b"2", b"3"), b""),
        ((b"1" * 257,), b""),
    ],
)
def test_the_traceparent_is_kept(values: tuple[bytes, ...], kept: bytes) -> None:
    """A call has the request's traceparent as sent; one that is given twice, or is far too long,
    is none."""
    fields = [*wire.request_fields(), *((b"traceparent", value) for value in values)]
    for cut in (wire.whole, wire.byte_by_byte):
        reader = ConnectionReader()
        wire.read(reader, conversation(client(wire.headers(1, wire.block(*fields)))), cut)
        (call,) = reader.calls
        assert call.traceparent == kept
