"""The frames between workers and the recorder."""

from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from criproxy.audit.channel import (
    HEADER,
    MAX_COMPARED,
    Kind,
    connection_frame,
    decode_connection,
    decode_item,
    encode_item,
)
from criproxy.audit.items import TOO_LARGE, CallAtStage, Item, RuntimeListing, UnreadConnection
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.peers.peer import Connection, Peer
from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.message_capture import CaptureLimits
from tests.support.audited import AGENT, KUBELET, LISTENER, maker, observed


def sent(item: Item) -> Item:
    """Return an item after its way through the channel."""
    frame = b"".join(encode_item(item).frame(7))
    length, kind, slot, fields = HEADER.unpack_from(frame)
    assert (len(frame), slot) == (HEADER.size + length, 7)
    middle = HEADER.size + fields
    connection = None if isinstance(item, RuntimeListing) else item.connection
    return decode_item(Kind(kind), frame[HEADER.size : middle], frame[middle:], connection)


def exec_sync(*command: str) -> Message:
    return v1.ExecSyncRequest(container_id="c", cmd=command)


CHANGE = (
    "rule",
    "request",
    v1.PullImageRequest(image=v1.ImageSpec(image="a")),
    v1.PullImageRequest(
        image=v1.ImageSpec(image="b"), auth=v1.AuthConfig(username="u", password="s3cret-word")
    ),
)

ITEMS: dict[str, CallAtStage] = {
    "ended": observed("ExecSync", exec_sync("ls"), v1.ExecSyncResponse(stdout=b"out")),
    "begun": observed("ExecSync", exec_sync("ls"), stage="RequestReceived"),
    "failed": observed(
        "PullImage",
        CHANGE[2],
        code=StatusCode.UNKNOWN,
        message=b"no: s3cret-word",
        changes=(CHANGE,),
    ),
    "unread": observed("Version", code=None),
    "compressed": observed("ExecSync", exec_sync("ls"), encoding=b"gzip"),
    "stream": observed("GetContainerEvents", None, *[v1.ContainerEventResponse()] * 3),
    "foreign": observed("/x.Y/\xff", b"junk", denied="no", rules=("a", "b")),
    "agent": observed("Version", v1.VersionRequest(), peer=AGENT),
}


@pytest.mark.parametrize("item", ITEMS.values(), ids=ITEMS)
def test_a_call_has_the_same_record_in_the_recorder(item: CallAtStage) -> None:
    """The record of a call is the same before and after its way through the channel."""
    assert maker().make(sent(item)) == maker().make(item)


@given(
    st.lists(st.binary(max_size=200), max_size=3),
    st.lists(st.binary(max_size=200), max_size=3),
    st.binary(max_size=50),
    st.sampled_from(["ExecSync", "ListPodSandbox", "GetContainerEvents"]),
    st.booleans(),
)
def test_any_messages_are_transferred(
    requests: list[bytes], responses: list[bytes], message: bytes, method: str, cut: bool
) -> None:
    """Captured messages of any bytes, and their flags, arrive as they were."""
    item = observed(method, requests[0] if requests else None, *responses, message=message)
    assert item.call.capture is not None
    assert item.call.capture.request is not None
    item.call.capture.request.cut = cut
    item.call.capture.response = None if cut else item.call.capture.response
    received = sent(item)
    assert isinstance(received, CallAtStage)

    def state(each: Any) -> Any:
        return each and (each.messages, each.cut, each.encoding)

    capture = received.call.capture
    assert capture is not None
    assert state(capture.request) == state(item.call.capture.request)
    assert state(capture.response) == state(item.call.capture.response)
    assert received.call.message == message


def test_a_large_change_is_not_compared() -> None:
    """Of a changed message above the limit no field is named, and no secret of it is recorded."""
    before = v1.PullImageRequest(image=v1.ImageSpec(image="a" * MAX_COMPARED))
    after = CHANGE[3]
    item = observed(
        "PullImage",
        v1.PullImageRequest(),
        code=StatusCode.UNKNOWN,
        message=b"denied for s3cret-word",
        changes=(("rule", "request", before, after),),
    )
    record = maker().make(sent(item))
    assert record is not None
    assert record.fields["changes"] == [{"rule": "rule", "half": "request", "fields": [TOO_LARGE]}]
    assert b"s3cret-word" not in record.line


@pytest.mark.parametrize("short_names", [None, "", "docker.io"])
def test_listings_and_unread_connections(short_names: str | None) -> None:
    """They arrive as they were."""
    listing = RuntimeListing(b"pods", b"containers", b"images", short_names)
    received = sent(listing)
    assert isinstance(received, RuntimeListing)
    assert (received.pods, received.containers) == (b"pods", b"containers")
    assert (received.images, received.short_names) == (b"images", short_names)
    unread = UnreadConnection(Connection(LISTENER, KUBELET, 1.0), "protocol", "detail", 2.5)
    answer = sent(unread)
    assert isinstance(answer, UnreadConnection)
    assert (answer.reason, answer.detail, answer.at) == ("protocol", "detail", 2.5)


@pytest.mark.parametrize("peer", [KUBELET, AGENT, Peer(0, 0, 0, None, ("a\\xff", "\u2028"))])
def test_connections(peer: Peer) -> None:
    """A connection arrives with its listener and peer."""
    frame = connection_frame(3, 1, Connection(LISTENER, peer, 4.0))
    length, kind, slot, fields = HEADER.unpack_from(frame)
    assert (kind, slot, length) == (Kind.CONNECTION, 3, fields)
    queue, connection = decode_connection(frame[HEADER.size :])
    assert (queue, connection.listener, connection.peer) == (1, LISTENER, peer)


def test_what_was_captured_for_others_is_not_sent() -> None:
    """Of messages that were captured for another purpose, as many are sent as the limits allow."""
    item = observed("GetContainerEvents", b"x" * 10, b"a" * 40, b"b" * 40, b"c" * 40)
    received = sent(replace(item, limits=CaptureLimits(0, 80)))
    assert isinstance(received, CallAtStage)
    capture = received.call.capture
    assert capture is not None
    assert capture.request is None
    assert capture.response is not None
    assert capture.response.messages == [(b"a" * 40, False), (b"b" * 40, False)]
    assert capture.response.cut
    whole = sent(replace(item, limits=CaptureLimits(10, 120)))
    assert isinstance(whole, CallAtStage)
    assert maker().make(whole) == maker().make(item)
