"""The calls in flight of a cassette, and what is kept of them."""

from criproxy.cassette.open_calls import KEPT_BYTES, OpenCalls
from criproxy.cassette.records import CallBegan, CallEnded, MessagePassed
from criproxy.cri.pb import runtime_v1_pb2 as v1

PATH = "/runtime.v1.RuntimeService/RunPodSandbox"
SIZE = KEPT_BYTES // 4
"""Bytes of a large message."""


def request(number: int, padding: int) -> bytes:
    metadata = v1.PodSandboxMetadata(name=f"pod{number}", namespace="shop")
    config = v1.PodSandboxConfig(metadata=metadata, hostname="x" * padding)
    return v1.RunPodSandboxRequest(config=config).SerializeToString()


def begin(calls: OpenCalls, number: int, padding: int) -> None:
    data = request(number, padding)
    calls.follow(CallBegan(call=number, connection=1, at=number, path=PATH))
    calls.follow(MessagePassed(call=number, at=number, size=len(data), data=data))


def end(calls: OpenCalls, number: int) -> None:
    data = v1.RunPodSandboxResponse(pod_sandbox_id=f"{number:064}").SerializeToString()
    calls.follow(MessagePassed(call=number, at=number, size=len(data), response=True, data=data))
    record = CallEnded(call=number, at=number, end="status", code="OK")
    call = calls.follow(record)
    assert call is not None
    calls.learn(call, record)


def kept(calls: OpenCalls) -> dict[int, int]:
    """Bytes of the request of each call in flight."""
    requests = {number: call.request for number, call in calls.calls.items()}
    return {number: len(each.data) for number, each in requests.items() if each is not None}


def test_memory_is_bounded() -> None:
    """Of many calls in flight with large requests, only some are kept; it is noted of the others
    that their data is missing, and what they are about is not known."""
    calls = OpenCalls()
    for number in range(1, 9):
        begin(calls, number, SIZE)
    assert sum(kept(calls).values()) <= KEPT_BYTES
    assert [number for number, size in kept(calls).items() if size] == [1, 2, 3]
    last = calls.calls[8]
    assert last.request is not None
    assert (last.request.missing, last.request.size) == ("too_large", len(request(8, SIZE)))
    assert calls.subject(calls.calls[1]).flat_fields()["pod"] == "pod1"
    assert "pod" not in calls.subject(last).flat_fields()


def test_what_has_ended_makes_room() -> None:
    """The bytes of calls that have ended are free for others, however many there are."""
    calls = OpenCalls()
    for number in range(1, 30):
        begin(calls, number, SIZE)
        assert kept(calls)[number] > SIZE
        end(calls, number)
    assert not calls.calls


def test_a_listing_of_many_messages() -> None:
    """A streamed listing is kept whole, and adding a message to it does not copy those before."""
    calls = OpenCalls()
    path = "/runtime.v1.RuntimeService/StreamPodSandboxes"
    calls.follow(CallBegan(call=1, connection=1, at=1, path=path))
    calls.follow(MessagePassed(call=1, at=1, size=0))
    listed = calls.calls[1].response
    for number in range(100):
        pod = v1.PodSandbox(id=f"{number:064}", metadata=v1.PodSandboxMetadata(name=f"p{number}"))
        data = v1.ListPodSandboxResponse(items=[pod]).SerializeToString()
        calls.follow(MessagePassed(call=1, at=1, size=len(data), response=True, data=data))
    assert calls.calls[1].response is listed
    ended = CallEnded(call=1, at=2, end="status", code="OK")
    call = calls.follow(ended)
    assert call is not None
    calls.learn(call, ended)
    stop = v1.StopPodSandboxRequest(pod_sandbox_id=f"{99:064}").SerializeToString()
    calls.follow(
        CallBegan(call=2, connection=1, at=3, path="/runtime.v1.RuntimeService/StopPodSandbox")
    )
    calls.follow(MessagePassed(call=2, at=3, size=len(stop), data=stop))
    assert calls.subject(calls.calls[2]).flat_fields()["pod"] == "p99"
