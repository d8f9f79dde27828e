"""A client whose image service is another process, frame by frame, with strict peers."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from criproxy.relay.connections.h2_peer import STREAMS, WINDOW
from criproxy.relay.connections.upstream import LOST
from criproxy.wire.constants import ErrorCode
from tests.support import wire
from tests.support.endpoints import (
    DEFAULT_WINDOW,
    INITIAL_WINDOW_SIZE,
    LARGEST_WINDOW,
    Block,
    End,
    Stream,
)
from tests.support.played import (
    OK,
    RESPONSE,
    Played,
    answer,
    played_client,
    played_runtime,
    wait_for_any,
)
from tests.support.raw_sockets import listening
from tests.support.relaying import Relay
from tests.support.waiting import LIMIT_SECONDS, wait_until

RUNTIME = b"/runtime.v1.RuntimeService/"
IMAGES = b"/runtime.v1.ImageService/"
MAX_CONCURRENT_STREAMS = 3
UNKNOWN = 0xDEADBEEF


class Ends:
    """A relay, and the sockets at which its upstreams are played."""

    def __init__(
        self, relay: Relay, runtime: socket.socket, images: socket.socket, client: Played
    ) -> None:
        self.relay, self.runtime, self.images, self.client = relay, runtime, images, client

    def answered(self, stream: Stream) -> bytes:
        """Wait for a whole response; return its messages."""
        received = self.client.finish(stream).received
        assert (received.ended, received.fields[b"grpc-status"]) == (True, b"0")
        return bytes(received.data)

    def failed(self, stream: Stream) -> bytes:
        """Wait for a status in the upstream's place; return its code."""
        received = self.client.finish(stream).received
        assert received.ended
        return received.fields[b"grpc-status"]


@pytest.fixture
def ends(short_dir: Path, loop: str) -> Iterator[Ends]:
    with (
        listening(short_dir / "runtime.sock") as runtime,
        listening(short_dir / "images.sock") as images,
        Relay(
            short_dir,
            short_dir / "runtime.sock",
            image=short_dir / "images.sock",
            loop=loop,
            runtime_wait=0.1,
        ) as relay,
        played_client(relay.path) as client,
    ):
        yield Ends(relay, runtime, images, client)


# Whole answers, and what follows them.


@pytest.mark.parametrize("whole_request", [True, False])
@pytest.mark.parametrize("code", [ErrorCode.NO_ERROR, ErrorCode.CANCEL, UNKNOWN])
def test_whole_answer_and_reset_in_one_read(ends: Ends, code: int, whole_request: bool) -> None:
    """A complete response reaches the client, then the reset if its request is not complete."""
    stream = ends.client.begin(RUNTIME + b"Version", body=b"x" if whole_request else None)
    with played_runtime(ends.runtime) as runtime:
        runtime.wait(lambda: 1 in runtime.end.streams)
        theirs = runtime.call() if whole_request else runtime.end.streams[1]
        runtime.queue(theirs, *answer(b"1"))
        runtime.raw(wire.reset(1, code))
        assert ends.answered(stream) == wire.message(b"1")
        if not whole_request:
            ends.client.wait(lambda: stream.received.code is not None)
            assert stream.received.code == code
        following = ends.client.begin(RUNTIME + b"Version")
        runtime.answer(runtime.call(3), b"2")
        assert ends.answered(following) == wire.message(b"2")
        assert stream.received.code == (None if whole_request else code)
        assert theirs.received.code is None


def test_whole_answer_and_reset_in_several_reads(ends: Ends) -> None:
    """The same wherever the upstream's bytes are cut."""
    frames = b"".join(
        (
            wire.response(1),
            wire.data(1, wire.message(b"1")),
            wire.trailers(1),
            wire.reset(1, ErrorCode.NO_ERROR),
        )
    )
    stream = ends.client.begin(RUNTIME + b"Version", body=None)
    with played_runtime(ends.runtime) as runtime:
        runtime.wait(lambda: 1 in runtime.end.streams)
        for number in range(len(frames)):
            runtime.raw(frames[number : number + 1])
        assert ends.answered(stream) == wire.message(b"1")
        ends.client.wait(lambda: stream.received.code == ErrorCode.NO_ERROR)


@pytest.mark.parametrize("lost", [False, True], ids=["reset", "lost"])
def test_whole_answer_that_waits_for_the_client(short_dir: Path, ends: Ends, lost: bool) -> None:
    """A response that the client's window does not allow yet is delivered after the reset, and
    after the upstream has gone."""
    content = b"m" * 5000
    with played_client(ends.relay.path, (INITIAL_WINDOW_SIZE, 10)) as client:
        stream = client.begin(RUNTIME + b"Version", body=None)
        with played_runtime(ends.runtime) as runtime:
            runtime.wait(lambda: 1 in runtime.end.streams)
            runtime.queue(runtime.end.streams[1], *answer(content))
            runtime.raw(b"" if lost else wire.reset(1, ErrorCode.NO_ERROR))
            client.wait(lambda: len(stream.received.data) == 10)
        assert not stream.received.over
        while len(stream.received.data) < len(wire.message(content)):
            expected = min(len(stream.received.data) + 1000, len(wire.message(content)))
            client.end.grant(stream, 1000)
            client.flush()
            client.wait(lambda expected=expected: len(stream.received.data) == expected)
        assert bytes(stream.received.data) == wire.message(content)
        client.finish(stream)
        assert stream.received.fields[b"grpc-status"] == b"0"
        client.wait(lambda: stream.received.code == ErrorCode.NO_ERROR)


@pytest.mark.parametrize("follows", ["PUSH_PROMISE", "overlong frame", "end"])
def test_whole_answer_before_an_error(ends: Ends, follows: str) -> None:
    """What an upstream sent before a frame that ends its connection is delivered."""
    frames = {
        "PUSH_PROMISE": wire.frame(
            wire.PUSH_PROMISE, wire.END_HEADERS, 1, b"\0\0\0\2" + wire.block(*wire.request_fields())
        ),
        "overlong frame": b"\x7f\xff\xff" + bytes(6),
        "end": b"",
    }
    stream = ends.client.begin(RUNTIME + b"Version")
    hanging = ends.client.begin(RUNTIME + b"Status")
    images = ends.client.begin(IMAGES + b"ListImages")
    with played_runtime(ends.runtime) as runtime, played_runtime(ends.images) as image_service:
        runtime.call(3)
        runtime.queue(runtime.call(), *answer(b"1"))
        runtime.raw(frames[follows])
        if follows == "end":
            runtime.go()
        assert ends.answered(stream) == wire.message(b"1")
        assert ends.failed(hanging) == b"14"
        assert hanging.received.fields[b"grpc-message"] == LOST.encode()
        image_service.answer(image_service.call(), b"2")
        assert ends.answered(images) == wire.message(b"2")
        following = ends.client.begin(RUNTIME + b"Version")
        with played_runtime(ends.runtime) as again:
            again.answer(again.call(), b"3")
            assert ends.answered(following) == wire.message(b"3")


# Codes, settings and frames that are not known.


@pytest.mark.parametrize("code", [UNKNOWN, 0xE, 0xFFFFFFFF, ErrorCode.INADEQUATE_SECURITY])
def test_unknown_reset_ends_one_call(ends: Ends, code: int) -> None:
    """An error code, known or not, is passed on as it came, from either side, and ends one call."""
    first, second, third = (ends.client.begin(RUNTIME + b"Version") for _ in range(3))
    with played_runtime(ends.runtime) as runtime:
        runtime.call(5)
        runtime.send(runtime.call(1), Block(RESPONSE), bytearray(wire.message(b"part")))
        runtime.end.reset(runtime.end.streams[1], code)
        runtime.flush()
        assert ends.client.finish(first).received.code == code
        assert bytes(first.received.data) == wire.message(b"part")
        ends.client.end.reset(second, code)
        ends.client.flush()
        runtime.wait(lambda: runtime.end.streams[3].received.code is not None)
        assert runtime.end.streams[3].received.code == code
        runtime.answer(runtime.end.streams[5], b"1")
        assert ends.answered(third) == wire.message(b"1")


def test_unknown_frames_and_settings_are_ignored(ends: Ends) -> None:
    """So are PRIORITY and extensions, from either side; each call goes on."""
    ignored = b"".join(
        (
            wire.settings((0x99, 7), (0xFFFF, 0)),
            wire.frame(0xF0, 0xFF, 0, b"extension"),
            wire.frame(0xA, 0, 0, b"\0\0alt-svc"),
            wire.frame(wire.PRIORITY, 0, 1, b"\0\0\0\0\x10"),
            wire.frame(wire.PRIORITY, 0, 99, b"\0\0\0\1\x10"),
        )
    )
    ends.client.end._changes.append(())
    stream = ends.client.begin(RUNTIME + b"Version")
    ends.client.raw(ignored)
    with played_runtime(ends.runtime) as runtime:
        runtime.end._changes.append(())
        runtime.raw(ignored)
        runtime.answer(runtime.call(), b"1")
        assert ends.answered(stream) == wire.message(b"1")


@pytest.mark.parametrize("code", [0, UNKNOWN])
def test_goaway_of_an_upstream(ends: Ends, code: int) -> None:
    """Whatever its code: calls that it names end there, also those with a long way to go; the
    next are made on another connection, and those that it leaves out are refused."""
    large = ends.client.begin(RUNTIME + b"Version", body=b"x" * (WINDOW // 4))
    with played_runtime(ends.runtime) as old:
        old.wait(lambda: 1 in old.end.streams)
        left_out = ends.client.begin(RUNTIME + b"Version")
        old.wait(lambda: 3 in old.end.streams)
        old.end.go_away(1, code)
        old.flush()
        assert ends.client.finish(left_out).received.code == ErrorCode.REFUSED_STREAM
        following = ends.client.begin(RUNTIME + b"Version")
        with played_runtime(ends.runtime) as new:
            new.answer(new.call(), b"new")
            assert ends.answered(following) == wire.message(b"new")

            def whole() -> bool:
                old.acknowledge(old.end.streams[1])
                ends.client.send(large)
                return old.end.streams[1].received.ended

            wait_for_any(whole, old, ends.client)
            old.answer(old.end.streams[1], b"old")
            assert ends.answered(large) == wire.message(b"old")
            old.wait_for_end()


# The upstream's limit of streams.


def test_calls_wait_for_the_limit_of_streams(ends: Ends) -> None:
    """A limit that is 0 for a while, raised, lowered and raised again refuses no call."""
    streams = [ends.client.begin(RUNTIME + b"Version", body=b"%d" % each) for each in range(6)]
    with played_runtime(ends.runtime, (MAX_CONCURRENT_STREAMS, 0)) as runtime:
        images = ends.client.begin(IMAGES + b"ListImages")
        with played_runtime(ends.images) as image_service:  # the other service goes on
            image_service.answer(image_service.call(), b"i")
            assert ends.answered(images) == wire.message(b"i")
        assert not runtime.end.streams
        runtime.settle((MAX_CONCURRENT_STREAMS, 2))
        runtime.call(3)
        assert sorted(runtime.end.streams) == [1, 3]
        runtime.settle((MAX_CONCURRENT_STREAMS, 1))
        runtime.wait(lambda: runtime.end.quiescent)
        runtime.answer(runtime.end.streams[1], b"0")
        assert ends.answered(streams[0]) == wire.message(b"0")
        runtime.settled()
        assert sorted(runtime.end.streams) == [1, 3]
        runtime.answer(runtime.end.streams[3], b"1")
        runtime.call(5)
        runtime.settle((MAX_CONCURRENT_STREAMS, 100))
        runtime.call(11)
        for number, stream in enumerate(streams[2:], 2):
            theirs = runtime.end.streams[2 * number + 1]
            assert bytes(theirs.received.data) == wire.message(b"%d" % number)
            runtime.answer(theirs, b"%d" % number)
            assert ends.answered(stream) == wire.message(b"%d" % number)


def test_no_stream_before_the_limit_is_known(ends: Ends) -> None:
    """Calls wait for an upstream's first SETTINGS, which may have a limit."""
    first, second = (ends.client.begin(RUNTIME + b"Version") for _ in range(2))
    with played_runtime(ends.runtime, settles=False) as runtime:
        runtime.wait(lambda: runtime.end.settled)
        runtime.settled()
        assert not runtime.end.streams
        runtime.settle((MAX_CONCURRENT_STREAMS, 1))
        runtime.answer(runtime.call(), b"1")
        assert ends.answered(first) == wire.message(b"1")
        runtime.answer(runtime.call(3), b"2")
        assert ends.answered(second) == wire.message(b"2")


def test_call_that_is_cancelled_while_it_waits(ends: Ends) -> None:
    """It vanishes: the upstream never sees it, and the next take its place."""
    first, second, third = (ends.client.begin(RUNTIME + b"Version") for _ in range(3))
    with played_runtime(ends.runtime, (MAX_CONCURRENT_STREAMS, 1)) as runtime:
        runtime.call()
        ends.client.end.reset(second, ErrorCode.CANCEL)
        ends.client.flush()
        wait_until(lambda: len(ends.relay.recorder.ended) == 1, "end of the call")
        runtime.answer(runtime.end.streams[1], b"1")
        assert ends.answered(first) == wire.message(b"1")
        runtime.answer(runtime.call(3), b"3")
        assert ends.answered(third) == wire.message(b"3")
        assert sorted(runtime.end.streams) == [1, 3]
    ends.relay.recorder.calls(3)


def test_call_whose_deadline_passes_while_it_waits(ends: Ends) -> None:
    """It ends with DEADLINE_EXCEEDED also where its client does not cancel it."""
    late = ends.client.begin(RUNTIME + b"Version", (b"grpc-timeout", b"50m"))
    patient = ends.client.begin(RUNTIME + b"Version", (b"grpc-timeout", b"1H"))
    with played_runtime(ends.runtime, (MAX_CONCURRENT_STREAMS, 0)) as runtime:
        assert ends.failed(late) == b"4"
        runtime.settle((MAX_CONCURRENT_STREAMS, 1))
        runtime.answer(runtime.call(), b"1")
        assert ends.answered(patient) == wire.message(b"1")
        assert sorted(runtime.end.streams) == [1]


def test_calls_above_the_bound_are_refused(ends: Ends) -> None:
    """What a client opens above its own limit of streams is refused, its other calls go on."""
    streams = [ends.client.begin(RUNTIME + b"Version")]
    with played_runtime(ends.runtime, (MAX_CONCURRENT_STREAMS, 1)) as runtime:
        runtime.call()
        begin, path = ends.client.begin, RUNTIME + b"Version"
        streams += [begin(path, body=None, end=True) for _ in range(STREAMS + 9)]
        for stream in streams[STREAMS:]:
            assert ends.client.finish(stream).received.code == ErrorCode.REFUSED_STREAM
        for stream in streams[1:STREAMS]:
            ends.client.end.reset(stream, ErrorCode.CANCEL)
        ends.client.settled()
        runtime.answer(runtime.end.streams[1], b"1")
        assert ends.answered(streams[0]) == wire.message(b"1")
        following = ends.client.begin(RUNTIME + b"Version")
        runtime.answer(runtime.call(3), b"2")
        assert ends.answered(following) == wire.message(b"2")
        assert sorted(runtime.end.streams) == [1, 3]


def test_headers_that_wait_are_bounded(ends: Ends) -> None:
    """Calls with large headers are refused where too many of them wait."""
    large = [(b"x-%d" % each, bytes([97 + each]) * 800) for each in range(20)]
    begin, path = ends.client.begin, RUNTIME + b"Version"
    streams = [begin(path, *large, body=None, end=True) for _ in range(400)]
    with played_runtime(ends.runtime, (MAX_CONCURRENT_STREAMS, 0)) as runtime:
        ends.client.wait(lambda: sum(each.received.code is not None for each in streams) >= 100)
        assert {each.received.code for each in streams} == {None, ErrorCode.REFUSED_STREAM}
        assert streams[0].received.code is None
        runtime.settle((MAX_CONCURRENT_STREAMS, 100))
        runtime.answer(runtime.call(), b"1")
        assert ends.answered(streams[0]) == wire.message(b"1")


@pytest.mark.parametrize("settles", [True, False])
def test_calls_that_wait_for_an_upstream_that_is_lost(ends: Ends, settles: bool) -> None:
    """Calls that wait end with UNAVAILABLE if their upstream goes before it takes one."""
    streams = [ends.client.begin(RUNTIME + b"Version") for _ in range(3)]
    limit = (MAX_CONCURRENT_STREAMS, 0)
    with played_runtime(ends.runtime, limit, settles=settles) as runtime:
        runtime.wait(lambda: runtime.end.settled)
        runtime.go()
    assert [ends.failed(each) for each in streams] == [b"14"] * 3
    following = ends.client.begin(RUNTIME + b"Version")
    with played_runtime(ends.runtime) as runtime:
        runtime.answer(runtime.call(), b"1")
        assert ends.answered(following) == wire.message(b"1")


def test_calls_that_wait_are_made_on_the_next_connection(ends: Ends) -> None:
    """If their upstream was in use and goes, calls that it has not seen wait for the next."""
    first, second = (ends.client.begin(RUNTIME + b"Version") for _ in range(2))
    with played_runtime(ends.runtime, (MAX_CONCURRENT_STREAMS, 1)) as runtime:
        runtime.call()
        runtime.go()
        assert ends.failed(first) == b"14"
        with played_runtime(ends.runtime) as again:
            again.answer(again.call(), b"2")
            assert ends.answered(second) == wire.message(b"2")


def test_calls_that_wait_for_an_upstream_that_stays_away(ends: Ends) -> None:
    """They end with UNAVAILABLE after the time for which clients wait for a runtime."""
    streams = [ends.client.begin(RUNTIME + b"Version") for _ in range(2)]
    with played_runtime(ends.runtime, (MAX_CONCURRENT_STREAMS, 1)) as runtime:
        runtime.call()
        ends.runtime.close()
        runtime.go()
        assert [ends.failed(each) for each in streams] == [b"14", b"14"]
    images = ends.client.begin(IMAGES + b"ListImages")
    with played_runtime(ends.images) as image_service:
        image_service.answer(image_service.call(), b"i")
        assert ends.answered(images) == wire.message(b"i")


def test_calls_that_wait_when_drained(ends: Ends) -> None:
    """A call that waits while its connection is drained is served as those in flight are."""
    first, second = (ends.client.begin(RUNTIME + b"Version") for _ in range(2))
    with played_runtime(ends.runtime, (MAX_CONCURRENT_STREAMS, 1)) as runtime:
        runtime.call()
        draining = ends.relay.drain()
        late = ends.client.begin(RUNTIME + b"Version")
        for number, stream in ((1, first), (3, second), (5, late)):
            runtime.answer(runtime.call(number), b"%d" % number)
            assert ends.answered(stream) == wire.message(b"%d" % number)
        ends.client.wait_for_end()
        assert draining.result(LIMIT_SECONDS).cut == 0


def test_calls_of_an_absent_upstream_when_drained(short_dir: Path, loop: str) -> None:
    """A call whose upstream cannot be reached is refused: another process may serve it."""
    runtime = short_dir / "runtime.sock"
    with (
        Relay(short_dir, runtime, image=short_dir / "images.sock", loop=loop) as relay,
        played_client(relay.path) as client,
    ):
        stream = client.begin(RUNTIME + b"Version")
        wait_until(lambda: relay.recorder.begun, "the call")
        draining = relay.drain()
        assert client.finish(stream).received.code == ErrorCode.REFUSED_STREAM
        client.wait_for_end()
        assert draining.result(LIMIT_SECONDS).cut == 0


# Kinds of frames.


def test_trailers_only(ends: Ends) -> None:
    """A response that is one header block stays one."""
    stream = ends.client.begin(RUNTIME + b"Version")
    with played_runtime(ends.runtime) as runtime:
        fields = [*RESPONSE, (b"grpc-status", b"12"), (b"grpc-message", b"no %25")]
        runtime.send(runtime.call(), Block(fields, end=True))
        ends.client.finish(stream)
    assert stream.received.headers == [fields]
    assert not stream.received.data


def test_informational_headers(ends: Ends) -> None:
    """Headers with a 1xx status pass in front of the response, which may fail after them."""
    first, second = (ends.client.begin(RUNTIME + b"Version") for _ in range(2))
    early = [(b":status", b"103"), (b"x-early", b"1")]
    with played_runtime(ends.runtime) as runtime:
        runtime.call(3)
        runtime.send(runtime.call(), Block([(b":status", b"100")]), Block(early))
        ends.client.wait(lambda: len(first.received.headers) == 2)
        runtime.answer(runtime.end.streams[1], b"1")
        assert ends.answered(first) == wire.message(b"1")
        assert first.received.headers == [[(b":status", b"100")], early, RESPONSE, OK]
        runtime.send(runtime.end.streams[3], Block(early))
        ends.client.wait(lambda: second.received.headers)
        runtime.go()
        assert ends.failed(second) == b"14"
        assert second.received.headers[1][0] == (b":status", b"200")


def test_empty_and_padded_data(ends: Ends) -> None:
    """Empty DATA is no end unless it says so; padding is taken out and its window given back."""
    stream = ends.client.begin(RUNTIME + b"Version", body=None)
    for _ in range(40):
        ends.client.end.nothing(stream)
        ends.client.end._send_data(stream, b"x" * 10, False, 255)
    ends.client.queue(stream, End(joined=False))
    ends.client.flush()
    with played_runtime(ends.runtime) as runtime:
        assert bytes(runtime.call().received.data) == b"x" * 400
        theirs = runtime.end.streams[1]
        runtime.send(theirs, Block(RESPONSE))
        for _ in range(300):  # more than a window of padding
            runtime.end._send_data(theirs, b"", False, 254)
            runtime.end.nothing(theirs)
            runtime.flush()
            runtime.wait(lambda: runtime.end.window(theirs) > 300)
        runtime.send(theirs, bytearray(wire.message(b"1")), End(joined=False))
        ends.client.finish(stream)
        assert bytes(stream.received.data) == wire.message(b"1")
        assert stream.received.headers == [RESPONSE]


def test_large_headers_in_many_frames(ends: Ends) -> None:
    """Header blocks with CONTINUATION pass in both directions, and trailers, too."""
    large = [(b"x-%d" % each, bytes([97 + each]) * 2000) for each in range(20)]
    style = 2 | 3 << 2  # four frames
    stream = ends.client.end.open([*wire.request_fields(), *large], style=style)
    ends.client.send(stream, bytearray(wire.message(b"")), End(joined=True))
    with played_runtime(ends.runtime) as runtime:
        theirs = runtime.call()
        assert theirs.received.headers == [[*wire.request_fields(), *large]]
        theirs.outgoing += [Block([*RESPONSE, *large]), Block([*OK, *large], end=True)]
        while runtime.end.push(theirs, 1 << 14, style):
            pass
        runtime.flush()
        ends.client.finish(stream)
    assert stream.received.headers == [[*RESPONSE, *large], [*OK, *large]]


def test_window_that_becomes_smaller(ends: Ends) -> None:
    """A client may make its window negative while a response is on its way."""
    stream = ends.client.begin(RUNTIME + b"Version")
    content = b"m" * 100_000
    with played_runtime(ends.runtime) as runtime:
        runtime.send(runtime.call(), Block(RESPONSE), bytearray(wire.message(content)))
        ends.client.wait(lambda: len(stream.received.data) == DEFAULT_WINDOW)
        ends.client.end.settle((INITIAL_WINDOW_SIZE, 100))
        ends.client.flush()
        ends.client.wait(lambda: ends.client.end.quiescent)
        ends.client.begin(RUNTIME + b"Status")
        runtime.call(3)
        runtime.send(runtime.end.streams[1], Block(OK, end=True))

        def whole() -> bool:
            ends.client.acknowledge(stream)
            runtime.send(runtime.end.streams[1])
            return stream.received.ended

        wait_for_any(whole, runtime, ends.client)
    assert bytes(stream.received.data) == wire.message(content)


def test_slow_call_blocks_no_other(ends: Ends) -> None:
    """While a client does not take the messages of one stream, its other calls of the same
    upstream, and those of the other, go on."""
    with played_client(ends.relay.path, (INITIAL_WINDOW_SIZE, 100)) as client:
        slow = client.begin(RUNTIME + b"StreamContainers")
        with played_runtime(ends.runtime) as runtime:
            runtime.send(runtime.call(), Block(RESPONSE), bytearray(1 << 22))
            runtime.wait(lambda: not runtime.end.window(runtime.end.streams[1]))
            client.wait(lambda: len(slow.received.data) == 100)
            for path, listener in ((RUNTIME, runtime), (IMAGES, None)):
                stream = client.begin(path + b"X")
                with contextlib.ExitStack() as stack:
                    end = listener or stack.enter_context(played_runtime(ends.images))
                    end.answer(end.call(3 if listener else 1), b"1")
                    assert bytes(client.finish(stream).received.data) == wire.message(b"1")


def test_client_that_does_not_read(ends: Ends) -> None:
    """Its window may be as large as it likes: an upstream is not read from for it without end."""
    content = 16 << 20
    with played_client(ends.relay.path, (INITIAL_WINDOW_SIZE, LARGEST_WINDOW)) as client:
        client.end.grant(None, LARGEST_WINDOW - DEFAULT_WINDOW)
        stream = client.begin(RUNTIME + b"StreamContainers")
        with played_runtime(ends.runtime) as runtime:
            theirs = runtime.call()
            runtime.send(theirs, Block(RESPONSE), bytearray(content))
            with pytest.raises(TimeoutError):
                runtime.wait(lambda: runtime.send(theirs), within=0.5)
            assert len(theirs.sent.data) < 4 << 20
            runtime.send(theirs, Block(OK, end=True))

            def whole() -> bool:
                runtime.send(theirs)
                return stream.received.ended

            wait_for_any(whole, runtime, client)
    assert len(stream.received.data) == content
