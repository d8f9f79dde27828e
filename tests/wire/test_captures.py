"""Replays the recorded connections: the events are the same for every cut, and complete."""

from collections import Counter

import hpack
import pytest
from hyperframe.frame import ContinuationFrame, DataFrame, Frame, HeadersFrame, SettingsFrame

from criproxy.wire.grpc import StatusCode
from criproxy.wire.hpack.decoder import Decoder
from criproxy.wire.reading.connection import ConnectionReader, Side
from tests.support.captures import NAMES, capture, sent_by
from tests.support.wire import (
    CUTS,
    PREFACE,
    Began,
    Conversation,
    Ended,
    Header,
    Report,
    Stopped,
    read,
)

RUNTIME, IMAGE = b"/runtime.v1.RuntimeService/", b"/runtime.v1.ImageService/"
INTEROP = b"/grpc.testing.TestService/"
OK, UNKNOWN = StatusCode.OK, StatusCode.UNKNOWN
WHITESPACE = (
    b"%09%0Atest with whitespace%0D%0Aand Unicode BMP %E2%98%BA and non-BMP %F0%9F%98%88%09%0A"
)


def ok(
    service: bytes, method: bytes, request: tuple[int, int], response: tuple[int, int]
) -> tuple[bytes, Ended]:
    return service + method, Ended(0, "status", OK, b"", request, response)


def version() -> tuple[bytes, Ended]:
    return ok(RUNTIME, b"Version", (1, 0), (1, 38))


def fs_info() -> tuple[bytes, Ended]:
    return ok(IMAGE, b"ImageFsInfo", (1, 0), (1, 91))


def run(method: bytes, request: int, response: int) -> tuple[bytes, Ended]:
    return ok(RUNTIME, method, (1, request), (1, response))


def failed(method: bytes, code: StatusCode, text: bytes, request: int) -> tuple[bytes, Ended]:
    return INTEROP + method, Ended(0, "status", code, text, (1, request), (0, 0))


def cancelled(
    method: bytes, request: tuple[int, int] = (0, 0), response: tuple[int, int] = (0, 0)
) -> tuple[bytes, Ended]:
    end = Ended(0, "client_reset", StatusCode.CANCELLED, b"", request, response)
    return INTEROP + method, end


STATUS = b"test status message"
NOT_IMPLEMENTED = b"method UnimplementedCall not implemented"

CALLS: dict[str, list[tuple[bytes, Ended]]] = {
    "crictl-01": [version(), run(b"Version", 4, 38)],
    "crictl-02": [fs_info(), ok(IMAGE, b"PullImage", (1, 50), (1, 73))],
    "crictl-03": [version(), run(b"RunPodSandbox", 63, 66)],
    "crictl-04": [version(), run(b"CreateContainer", 324, 66)],
    "crictl-05": [version(), run(b"StartContainer", 66, 0)],
    "crictl-06": [version(), run(b"ListContainers", 6, 402)],
    "crictl-07": [fs_info()],
    "crictl-08": [version(), run(b"ListPodSandbox", 2, 119)],
    "crictl-09": [version(), run(b"ContainerStatus", 66, 383)],
    "crictl-10": [version(), run(b"ExecSync", 81, 10)],
    "crictl-11": [fs_info()],
    "crictl-12": [version(), run(b"Exec", 101, 38)],
    "crictl-13": [fs_info()],
    "crictl-14": [version(), run(b"ContainerStatus", 68, 4325)],
    "crictl-15": [fs_info()],
    "crictl-16": [version(), *[run(b"ListContainerStats", 68, 237)] * 2],
    "crictl-17": [version(), run(b"PodSandboxStatus", 68, 5511)],
    "crictl-18": [version(), run(b"StopContainer", 68, 0)],
    "crictl-19": [version(), run(b"ContainerStatus", 66, 403), run(b"RemoveContainer", 66, 0)],
    "crictl-20": [version(), run(b"StopPodSandbox", 66, 0)],
    "crictl-21": [version(), run(b"PodSandboxStatus", 66, 351), run(b"RemovePodSandbox", 66, 0)],
    "interop-go-01": [ok(INTEROP, b"EmptyCall", (1, 0), (1, 0))],
    "interop-go-03": [ok(INTEROP, b"StreamingInputCall", (4, 74948), (1, 4))],
    "interop-go-04": [ok(INTEROP, b"StreamingOutputCall", (1, 21), (4, 93082))],
    "interop-go-05": [ok(INTEROP, b"FullDuplexCall", (4, 74969), (4, 93082))],
    "interop-go-06": [ok(INTEROP, b"FullDuplexCall", (0, 0), (0, 0))],
    "interop-go-07": [
        ok(INTEROP, b"UnaryCall", (1, 7), (1, 5)),
        ok(INTEROP, b"FullDuplexCall", (1, 9), (1, 5)),
    ],
    "interop-go-08": [failed(b"UnimplementedCall", StatusCode.UNIMPLEMENTED, NOT_IMPLEMENTED, 0)],
    "interop-go-09": [
        failed(b"UnaryCall", UNKNOWN, STATUS, 25),
        failed(b"FullDuplexCall", UNKNOWN, STATUS, 25),
    ],
    "interop-go-10": [failed(b"UnaryCall", UNKNOWN, WHITESPACE, 68)],
    "interop-go-11": [cancelled(b"StreamingInputCall")],
    "interop-go-12": [cancelled(b"FullDuplexCall", (1, 27196), (1, 31423))],
    "interop-go-13": [],
    "interop-ccore-01": [
        ok(INTEROP, b"EmptyCall", (1, 0), (1, 0)),
        ok(INTEROP, b"UnaryCall", (1, 314), (1, 626)),
        ok(INTEROP, b"UnaryCall", (1, 16), (1, 14)),
        ok(INTEROP, b"FullDuplexCall", (1, 18), (1, 14)),
        ok(INTEROP, b"UnaryCall", (1, 7), (1, 5)),
        failed(b"UnaryCall", UNKNOWN, STATUS, 25),
        failed(b"FullDuplexCall", UNKNOWN, STATUS, 25),
        failed(b"UnaryCall", UNKNOWN, WHITESPACE, 68),
        failed(b"UnimplementedCall", StatusCode.UNIMPLEMENTED, NOT_IMPLEMENTED, 0),
        cancelled(b"StreamingInputCall"),
        cancelled(b"FullDuplexCall", (1, 27196), (1, 31423)),
        (
            INTEROP + b"FullDuplexCall",
            Ended(
                0,
                "runtime_reset",
                StatusCode.DEADLINE_EXCEEDED,
                b"stream reset: CANCEL",
                (1, 27190),
                (0, 0),
            ),
        ),
        ok(INTEROP, b"FullDuplexCall", (4, 74969), (4, 93082)),
        ok(INTEROP, b"UnaryCall", (1, 271840), (1, 314167)),
    ],
    "kubelet-03": [version(), run(b"ListContainers", 6, 1820)],
    "kubelet-19": [version(), run(b"ListContainers", 6, 1820)],
}
"""The calls of the small ones: each path, and how the call ended. Streams count 1, 3, 5 …"""

TOTALS: dict[str, dict[bytes, int]] = {
    "kubelet-01": {
        RUNTIME + b"Attach": 1,
        RUNTIME + b"ContainerStatus": 21,
        RUNTIME + b"CreateContainer": 5,
        RUNTIME + b"Exec": 2,
        RUNTIME + b"ExecSync": 8,
        RUNTIME + b"GetContainerEvents": 1,
        RUNTIME + b"ListMetricDescriptors": 2,
        RUNTIME + b"PodSandboxStatus": 12,
        RUNTIME + b"PortForward": 1,
        RUNTIME + b"RemoveContainer": 1,
        RUNTIME + b"RunPodSandbox": 2,
        RUNTIME + b"RuntimeConfig": 3,
        RUNTIME + b"StartContainer": 5,
        RUNTIME + b"Status": 8,
        RUNTIME + b"StopContainer": 2,
        RUNTIME + b"StopPodSandbox": 2,
        RUNTIME + b"StreamContainers": 50,
        RUNTIME + b"StreamPodSandboxMetrics": 1,
        RUNTIME + b"StreamPodSandboxStats": 12,
        RUNTIME + b"StreamPodSandboxes": 46,
        RUNTIME + b"Version": 19,
    },
    "kubelet-02": {
        IMAGE + b"ImageFsInfo": 8,
        IMAGE + b"ImageStatus": 10,
        IMAGE + b"PullImage": 1,
        IMAGE + b"StreamImages": 3,
    },
}
"""How often each method was called, of the large ones."""


def replayed(name: str) -> list[Report]:
    return read(ConnectionReader(), capture(name))


def test_every_capture_is_described() -> None:
    """No recorded connection is left without facts to hold it to."""
    assert sorted([*CALLS, *TOTALS]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_cuts_do_not_matter(name: str) -> None:
    """A recorded connection gives the same events for every cut; all of it is read."""
    expected = replayed(name)
    for cut in CUTS[1:]:
        reader = ConnectionReader()
        assert read(reader, capture(name), cut) == expected
        assert reader.reading
        assert reader.calls == ()
    assert not [event for event in expected if isinstance(event, Stopped)]


@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str) -> None:
    """The calls of a small connection are exactly those that were made."""
    calls = list(enumerate(CALLS[name]))
    events = replayed(name)
    assert [event for event in events if isinstance(event, Began)] == [
        Began(2 * number + 1, path) for number, (path, _) in calls
    ]
    ended = [event for event in events if isinstance(event, Ended)]
    assert sorted(ended) == [end._replace(stream=2 * number + 1) for number, (_, end) in calls]


@pytest.mark.parametrize("name", TOTALS)
def test_totals(name: str) -> None:
    """The methods that a kubelet called on a long connection are exactly those it called."""
    events = replayed(name)
    assert Counter(event.path for event in events if isinstance(event, Began)) == TOTALS[name]


def test_what_was_not_ok_in_the_long_connections() -> None:
    """A kubelet's calls all ended well but for two lookups and the event stream it left open."""
    events = [event for name in TOTALS for event in replayed(name)]
    ended = [event for event in events if isinstance(event, Ended)]
    assert len(ended) == 204 + 22
    not_ok = [event for event in ended if event.code is not OK]
    assert [(event.end, event.code) for event in not_ok] == [
        ("status", StatusCode.NOT_FOUND),
        ("status", StatusCode.NOT_FOUND),
        ("client_gone", StatusCode.CANCELLED),
    ]
    assert not_ok[-1].response == (22, 61283)


def ended_open(name: str) -> list[bytes]:
    """The paths of the calls that were open when a side first ended the connection."""
    reader = ConnectionReader()
    for sent in capture(name):
        if not sent.data:
            break
        reader.receive(sent.side, sent.data, sent.now)
    return [call.path for call in reader.calls]


@pytest.mark.parametrize("name", NAMES)
def test_calls_open_at_the_end(name: str) -> None:
    """Only the kubelet's event stream was still open when its connection ended."""
    events = [RUNTIME + b"GetContainerEvents"] if name == "kubelet-01" else []
    assert ended_open(name) == events


def frames_of(data: bytes) -> list[Frame]:
    """The frames of one direction, as hyperframe reads them."""
    position = len(PREFACE) if data.startswith(PREFACE) else 0
    frames = []
    while position < len(data):
        frame, length = Frame.parse_frame_header(memoryview(data[position : position + 9]))
        frame.parse_body(memoryview(data[position + 9 : position + 9 + length]))
        frames.append(frame)
        position += 9 + length
    return frames


def blocks_of(frames: list[Frame]) -> list[tuple[int, bytes]]:
    """The header blocks among the frames, with their streams."""
    blocks: list[tuple[int, bytes]] = []
    for frame in frames:
        if isinstance(frame, HeadersFrame):
            blocks.append((frame.stream_id, frame.data))
        elif isinstance(frame, ContinuationFrame):
            stream, begun = blocks.pop()
            blocks.append((stream, begun + frame.data))
    return blocks


def table_sizes(frames: list[Frame]) -> list[int]:
    sizes = [f.settings.get(1) for f in frames if isinstance(f, SettingsFrame)]
    return [size for size in sizes if size is not None]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", Side)
def test_header_blocks(name: str, side: Side) -> None:
    """Every recorded header block decodes as hpack decodes it, and leaves the same table."""
    frames = frames_of(sent_by(side, capture(name)))
    oracle, decoder = hpack.Decoder(), Decoder()
    for size in table_sizes(frames_of(sent_by(Side(1 - side), capture(name)))):
        oracle.max_allowed_table_size = size
        decoder.allow(size)
    for _, block in blocks_of(frames):
        assert decoder.decode(block) == [tuple(field) for field in oracle.decode(block, raw=True)]
        assert decoder.table == tuple(oracle.header_table.dynamic_entries)


def contents(conversation: Conversation, side: Side) -> Counter[int]:
    """The bytes of DATA by stream, padding left out."""
    total: Counter[int] = Counter()
    for frame in frames_of(sent_by(side, conversation)):
        if isinstance(frame, DataFrame):
            total[frame.stream_id] += len(frame.data)
    return total


@pytest.mark.parametrize("name", NAMES)
def test_the_bytes_add_up(name: str) -> None:
    """Of a call that was not cut off, bytes and prefixes of its messages are all of its DATA."""
    sent = [contents(capture(name), side) for side in Side]
    paths: dict[int, list[Header]] = {}
    oracle = hpack.Decoder()
    for stream, block in blocks_of(frames_of(sent_by(Side.CLIENT, capture(name)))):
        paths.setdefault(stream, [tuple(field) for field in oracle.decode(block, raw=True)])
    events = replayed(name)
    assert {event.stream: event.path for event in events if isinstance(event, Began)} == {
        stream: dict(fields)[b":path"] for stream, fields in paths.items()
    }
    for event in events:
        if isinstance(event, Ended) and not event.end.endswith("reset"):
            for (messages, size), expected in zip(
                (event.request, event.response), sent, strict=True
            ):
                assert size + 5 * messages == expected[event.stream]
