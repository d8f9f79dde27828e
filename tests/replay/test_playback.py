"""Which recorded call answers, by what the client has done and by the time that has passed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from criproxy.cassette.call_index import CallIndex
from criproxy.cassette.reader import CassetteReader
from criproxy.client import CriClient
from criproxy.cri.methods import METHODS
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.replay.playback import Choice, Playback
from criproxy.replay.recorded_calls import RecordedCalls
from tests.support.cassettes import Made, cassette_of
from tests.support.replaying import Replay
from tests.support.waiting import LIMIT_SECONDS

POD, OTHER, BOX = "a" * 64, "b" * 64, "c" * 64


def run(name: str, id_: str, began: float) -> Made:
    config = v1.PodSandboxConfig(metadata=v1.PodSandboxMetadata(name=name, namespace="shop"))
    request = v1.RunPodSandboxRequest(config=config)
    response = v1.RunPodSandboxResponse(pod_sandbox_id=id_)
    return Made("RunPodSandbox", began, began + 1, request, [response])


def create(began: float) -> Made:
    request = v1.CreateContainerRequest(pod_sandbox_id=POD)
    response = v1.CreateContainerResponse(container_id=BOX)
    return Made("CreateContainer", began, began + 1, request, [response])


def start(began: float) -> Made:
    request = v1.StartContainerRequest(container_id=BOX)
    return Made("StartContainer", began, began + 1, request, [v1.StartContainerResponse()])


def stop(began: float) -> Made:
    request = v1.StopContainerRequest(container_id=BOX)
    return Made("StopContainer", began, began + 1, request, [v1.StopContainerResponse()])


def status(at: float, state: int) -> Made:
    request = v1.ContainerStatusRequest(container_id=BOX)
    response = v1.ContainerStatusResponse(status=v1.ContainerStatus(id=BOX, state=state))
    return Made("ContainerStatus", at, at + 0.1, request, [response])


class Client:
    """Asks a playback; the time is what the test sets."""

    def __init__(self, recorded: RecordedCalls, pace: float) -> None:
        self.now = 1000.0
        self.recorded = recorded
        self.playback = Playback(recorded, pace, self.now)
        self.events: list[Any] = []

    def ask(self, call: Made) -> Choice:
        method = METHODS[f"/{call.service}/{call.method}"]
        choice = self.playback.choose(method, call.request, self.now)
        self._see(self.playback.done(choice, self.now))
        return choice

    def state(self) -> Any:
        choice = self.ask(status(0, 0))
        (data,) = self.recorded.index.messages(choice.recorded.call.responses)
        return v1.ContainerStatusResponse.FromString(data).status.state

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self._see(self.playback.due_events(self.now))

    def _see(self, events: Sequence[Any]) -> None:
        self.events += [round(event.at / 1e9) for event in events]


@contextmanager
def replaying(path: Path, calls: Sequence[Made], pace: float = 1.0) -> Iterator[Client]:
    with CassetteReader(cassette_of(path, calls)) as reader:
        yield Client(RecordedCalls(CallIndex(reader)), pace)


LIFE = [
    run("web", POD, 10),
    create(20),
    start(30),
    status(32, v1.CONTAINER_RUNNING),
    status(40, v1.CONTAINER_RUNNING),
    status(50, v1.CONTAINER_EXITED),
    stop(60),
    status(62, v1.CONTAINER_EXITED),
]


def test_what_happens_by_itself(tmp_path: Path) -> None:
    """A container that exits 20 s after its start does so when as much time has passed; nothing
    goes past the next change that the client has yet to make."""
    with replaying(tmp_path / "a", LIFE) as client:
        client.ask(LIFE[0])
        client.ask(LIFE[1])
        client.ask(LIFE[2])
        states = []
        for _ in range(5):
            states.append(client.state())
            client.wait(5)
        running, exited = v1.CONTAINER_RUNNING, v1.CONTAINER_EXITED
        assert states == [running, running, running, running, exited]
        client.wait(1000)
        choice = client.ask(LIFE[3])
        assert choice.recorded.call.began == 50e9
        client.ask(LIFE[6])
        assert client.ask(LIFE[3]).recorded.call.began == 62e9


@pytest.mark.parametrize(("pace", "seconds"), [(1.0, 20), (0.5, 10), (2.0, 40)])
def test_pace(tmp_path: Path, pace: float, seconds: float) -> None:
    """Recorded times are multiplied by the pace."""
    with replaying(tmp_path / "a", LIFE, pace) as client:
        for call in LIFE[:3]:
            client.ask(call)
        client.wait(seconds * 0.9)
        assert client.state() == v1.CONTAINER_RUNNING
        client.wait(seconds * 0.1)
        assert client.state() == v1.CONTAINER_EXITED


def test_each_pod_has_a_position(tmp_path: Path) -> None:
    """What a client does to one pod changes nothing about another one."""
    calls = [*LIFE, run("db", OTHER, 5), run("cache", "d" * 64, 300)]
    with replaying(tmp_path / "a", calls) as client:
        for call in LIFE[:3]:
            client.ask(call)
        for call in calls[-2:]:
            client.ask(call)
            assert client.state() == v1.CONTAINER_RUNNING


def test_changes_in_order(tmp_path: Path) -> None:
    """The first of two calls alike answers the first request, and the last all further ones."""
    failed = Made(
        "StartContainer",
        *(25, 26, v1.StartContainerRequest(container_id=BOX)),
        code="UNKNOWN",
        message="no space left",
    )
    with replaying(tmp_path / "a", [run("web", POD, 10), create(20), failed, start(30)]) as client:
        client.ask(LIFE[0])
        client.ask(LIFE[1])
        chosen = [client.ask(LIFE[2]).recorded.call.began for _ in range(3)]
        assert chosen == [25e9, 30e9, 30e9]


def test_events(tmp_path: Path) -> None:
    """Events come when their pod gets there: with the call, or with the time after it."""
    times = (20.5, 30.5, 31.5, 50, 70)
    events = [(at, v1.ContainerEventResponse(container_id=BOX)) for at in times]
    stream = Made(
        "GetContainerEvents", 1, 100, v1.GetEventsRequest(), events, "CANCELLED", end="client_gone"
    )
    with replaying(tmp_path / "a", [stream, *LIFE]) as client:
        client.wait(1000)
        assert client.events == []
        client.ask(LIFE[0])
        client.ask(LIFE[1])
        assert client.events == [20]
        client.ask(LIFE[2])
        assert client.events == [20, 30]
        client.wait(1)
        assert client.events == [20, 30, 32]
        client.wait(1000)
        assert client.events == [20, 30, 32, 50]


def test_events_of_several_streams(tmp_path: Path) -> None:
    """What two streams report at the same time counts once; a stream behind them adds its own."""

    def stream(began: float, ended: float, *times: float) -> Made:
        events = [(at, v1.ContainerEventResponse(container_id=BOX)) for at in times]
        request = v1.GetEventsRequest()
        return Made("GetContainerEvents", began, ended, request, events, "CANCELLED")

    streams = [stream(1, 50, 20.5, 30.5), stream(2, 50, 20.5, 30.5), stream(60, 90, 70)]
    with replaying(tmp_path / "a", [*streams, *LIFE[:3]]) as client:
        for call in LIFE[:3]:
            client.ask(call)
        client.wait(1000)
        assert client.events == [20, 30, 70]


def test_a_call_that_hung(short_dir: Path) -> None:
    """A call whose deadline passed when it was recorded is not answered; nor is one that the
    recording does not have whole."""
    hung = Made(
        "StopContainer",
        *(1, 3, v1.StopContainerRequest(container_id=BOX)),
        code="DEADLINE_EXCEEDED",
        end="client_reset",
    )
    cancelled = Made(
        "RemoveContainer",
        *(4, 5, v1.RemoveContainerRequest(container_id=BOX)),
        code="CANCELLED",
        end="client_gone",
    )
    file = cassette_of(short_dir / "a", [hung, cancelled])
    with Replay(short_dir, file, "--pace", "none") as replay, CriClient(replay.endpoint) as client:
        with pytest.raises(grpc.RpcError) as failure:
            client.StopContainer(container_id=BOX, deadline=0.5)
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(grpc.RpcError) as failure:
            client.RemoveContainer(container_id=BOX, deadline=60.0)
        assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "1 calls cannot answer" in replay.process.stderr


def test_long_requests_that_were_not_recorded(short_dir: Path) -> None:
    """An error names what was asked and what was recorded in a few words, however long these are:
    in the status, whose size gRPC limits, and on standard error."""
    calls = [
        Made("ExecSync", 1, 2, v1.ExecSyncRequest(container_id=BOX, cmd=[f"{number}" * 20_000]))
        for number in range(1, 9)
    ]
    file = cassette_of(short_dir / "a", calls)
    with Replay(short_dir, file, "--pace", "none") as replay:
        with CriClient(replay.endpoint, timeout=LIMIT_SECONDS) as client:
            for length in (10, 4 << 20):
                with pytest.raises(grpc.RpcError) as failure:
                    client.ExecSync(container_id=BOX, cmd=["x" * length])
                assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION
                details = failure.value.details() or ""
                assert details.startswith("criproxy replay: the cassette has no ExecSync with cont")
                assert details.endswith("; and 3 others")
        assert replay.process.stop() == 0
    assert len(replay.process.stderr) < 8000


def test_a_stream(short_dir: Path) -> None:
    """All messages of a recorded stream are sent again, and its status."""
    answers = [
        v1.StreamContainersResponse(containers=[v1.Container(id=str(number))])
        for number in range(3)
    ]
    stream = Made(
        "StreamContainers",
        *(1, 3, v1.StreamContainersRequest(), answers),
        code="UNAVAILABLE",
        message="going",
    )
    file = cassette_of(short_dir / "a", [stream])
    with Replay(short_dir, file, "--pace", "0.01x") as replay, CriClient(replay.endpoint) as client:
        messages = client.StreamContainers()
        assert [next(messages) for _ in answers] == answers
        with pytest.raises(grpc.RpcError) as failure:
            next(messages)
        assert (failure.value.code().name, failure.value.details()) == ("UNAVAILABLE", "going")
