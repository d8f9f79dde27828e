"""criproxy record, as a process between a client and the embedded runtime."""

import gzip
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner

from criproxy.cassette.call_index import CallIndex
from criproxy.cassette.reader import CassetteReader
from criproxy.cassette.records import (
    Began,
    CallBegan,
    CallEnded,
    ConnectionOpened,
    Dropped,
    Ended,
    MessagePassed,
)
from criproxy.cli.record import command
from criproxy.client import CriClient
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.errors import UsageError
from tests.support.process_tree import descendants
from tests.support.recording import Recording
from tests.support.waiting import LIMIT_SECONDS, wait_until

SECRET = "hunter2-very-secret"


@pytest.fixture
def runtime(short_dir: Path) -> Iterator[EmbeddedRuntime]:
    with EmbeddedRuntime(f"unix://{short_dir}/cri.sock", pods=100) as runtime:
        yield runtime


def test_every_message_with_its_time(short_dir: Path, runtime: EmbeddedRuntime) -> None:
    """A cassette has the client, each call, each message, and how calls ended, in order."""
    with Recording(short_dir, runtime.endpoint) as recording:
        with CriClient(recording.endpoint, timeout=LIMIT_SECONDS) as client:
            listed = client.ListContainers()
            with pytest.raises(grpc.RpcError):
                client.ContainerStatus(container_id="none")
        assert recording.stop() == 0
    began, opened, *records = recording.records()
    assert isinstance(began, Began)
    assert (began.listener, began.runtime) == (recording.endpoint, runtime.endpoint)
    assert isinstance(opened, ConnectionOpened)
    assert (opened.pid, opened.uid) == (os.getpid(), os.getuid())
    times = [record.at for record in records]
    assert times == sorted(times)
    call, request, response, end, _, asked, failed, _, ended = records
    assert isinstance(call, CallBegan)
    assert call.path == "/runtime.v1.RuntimeService/ListContainers"
    assert isinstance(request, MessagePassed)
    assert (request.response, request.data) == (False, b"")
    assert isinstance(response, MessagePassed)
    assert v1.ListContainersResponse.FromString(response.data) == listed
    assert isinstance(end, CallEnded)
    assert (end.end, end.code, end.response_bytes) == ("status", "OK", listed.ByteSize())
    assert isinstance(asked, MessagePassed)
    assert isinstance(failed, CallEnded)
    assert (failed.code, failed.response_messages) == ("NOT_FOUND", 0)
    assert isinstance(ended, Ended)
    assert (ended.calls, ended.dropped, ended.reason) == (2, 0, "stopped")


def test_secrets_are_redacted(short_dir: Path, runtime: EmbeddedRuntime) -> None:
    """Credentials, environment and chosen values are not in the cassette; --no-redact keeps all."""
    for options in ([], ["--no-redact"]):
        directory = short_dir / f"r{len(options)}"
        directory.mkdir()
        with Recording(directory, runtime.endpoint, *options) as recording:
            with CriClient(recording.endpoint, timeout=LIMIT_SECONDS) as client:
                client.PullImage(image={"image": "app:1"}, auth={"password": SECRET})
                env = [{"key": "A", "value": SECRET.encode()}]
                with pytest.raises(grpc.RpcError):
                    client.CreateContainer(pod_sandbox_id="none", config={"envs": env})
            assert recording.stop() == 0
        content = gzip.decompress(recording.file.read_bytes())
        assert (SECRET.encode() in content) is bool(options)
        assert (b"[redacted: 19 bytes]" in content) is not bool(options)


def test_a_stream_is_recorded_while_it_runs(short_dir: Path, runtime: EmbeddedRuntime) -> None:
    """Events are in the file soon after they passed, also when both processes are killed."""
    with (
        Recording(short_dir, runtime.endpoint) as recording,
        CriClient(recording.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        events = client.GetContainerEvents()
        events.initial_metadata()
        (container, *_) = client.ListContainers().containers
        client.StopContainer(container_id=container.id)
        event = next(events)

        def recorded() -> bool:
            found = [each for each in recording.records() if isinstance(each, MessagePassed)]
            answers = [each.data for each in found if each.call == 1 and each.response]
            return event in map(v1.ContainerEventResponse.FromString, answers)

        wait_until(recorded, "the event in the cassette", limit=30)
        writing = list(descendants(recording.process.pid))
        for pid in (recording.process.pid, *writing):
            os.kill(pid, signal.SIGKILL)
        events.cancel()
    with CassetteReader(recording.file) as reader:
        index = CallIndex(reader)
    assert [each.complete for each in index.calls] == [False, True, True]
    assert index.notes() == [f"{recording.file}: has no last record; its recording was cut off"]


def test_the_relay_does_not_wait_for_the_writing_process(
    short_dir: Path, runtime: EmbeddedRuntime
) -> None:
    """With the writing process stopped, calls go on; what is lost is counted and noted."""
    with (
        EmbeddedRuntime(f"unix://{short_dir}/large.sock", pods=2000) as large,
        Recording(short_dir, large.endpoint) as recording,
    ):
        (writing,) = descendants(recording.process.pid)
        assert os.sched_getscheduler(writing) == os.SCHED_BATCH
        with CriClient(recording.endpoint, timeout=LIMIT_SECONDS) as client:
            client.Version()
            os.kill(writing, signal.SIGSTOP)
            try:
                size = 0
                while size < 48 << 20:
                    size += client.ListContainers().ByteSize()
            finally:
                os.kill(writing, signal.SIGCONT)
        assert recording.stop() == 0
    assert "records were lost" in recording.process.stderr
    records = recording.records()
    dropped = [each for each in records if isinstance(each, Dropped)]
    assert dropped
    assert isinstance(records[-1], Ended)
    assert records[-1].dropped == sum(each.records for each in dropped)
    with CassetteReader(recording.file) as reader:
        index = CallIndex(reader)
    assert index.dropped == records[-1].dropped
    assert all(each.end is not None for each in index.calls)
    assert not all(each.complete for each in index.calls)


def test_it_ends_at_a_size(short_dir: Path, runtime: EmbeddedRuntime) -> None:
    """At --max-size the recording ends by itself, and the file is not larger than that."""
    options = ["--max-size", "1MiB", "--no-redact"]
    with Recording(short_dir, runtime.endpoint, *options) as recording:
        with CriClient(recording.endpoint, timeout=LIMIT_SECONDS) as client:
            for number in range(100):
                metadata = {"name": f"pod{number}", "namespace": "a", "uid": str(number)}
                config = {"metadata": metadata, "hostname": os.urandom(50_000).hex()}
                try:
                    client.RunPodSandbox(config=config)
                except grpc.RpcError:
                    break  # the socket is gone
        assert recording.process.wait(LIMIT_SECONDS) == 0
    assert 0 < recording.file.stat().st_size <= 1 << 20
    last = recording.records()[-1]
    assert isinstance(last, Ended)
    assert last.reason == "size"


def test_it_ends_after_a_time(short_dir: Path, runtime: EmbeddedRuntime) -> None:
    """After --for the recording ends by itself, without its socket."""
    with Recording(short_dir, runtime.endpoint, "--for", "10ms") as recording:
        assert recording.process.wait(LIMIT_SECONDS) == 0
    assert not (short_dir / "record.sock").exists()
    assert recording.records()[-1].reason == "duration"


def test_a_ring_that_waits_for_a_call(short_dir: Path, runtime: EmbeddedRuntime) -> None:
    """With --ring nothing is written until a call meets all conditions; then the cassette has what
    was before it, and the recording ends by itself."""
    options = ["--ring", "4MiB", "--code", "NOT_FOUND", "--method", "*Container", "--after", "10ms"]
    with Recording(short_dir, runtime.endpoint, *options) as recording:
        with CriClient(recording.endpoint, timeout=LIMIT_SECONDS) as client:
            client.Version()
            for method in ("ContainerStatus", "StartContainer"):
                assert recording.file.stat().st_size < 1000
                with pytest.raises(grpc.RpcError):
                    client.call(method, container_id="none")
            wait_until(lambda: recording.file.stat().st_size > 500, "the cassette")
        assert recording.process.wait(LIMIT_SECONDS) == 0
    assert "a call met the conditions\n" in recording.process.stdout
    records = recording.records()
    paths = [each.path.rpartition("/")[2] for each in records if isinstance(each, CallBegan)]
    assert paths == ["Version", "ContainerStatus", "StartContainer"]
    assert isinstance(records[-1], Ended)
    assert records[-1].reason == "trigger"


def test_a_ring_without_such_a_call(short_dir: Path, runtime: EmbeddedRuntime) -> None:
    """A recording that is stopped before has the last of what passed."""
    options = ["--ring", "4MiB", "--slower-than", "10m"]
    with Recording(short_dir, runtime.endpoint, *options) as recording:
        with CriClient(recording.endpoint, timeout=LIMIT_SECONDS) as client:
            client.Version()
        assert recording.stop() == 0
    assert "no call met the conditions" in recording.process.stdout
    with CassetteReader(recording.file) as reader:
        index = CallIndex(reader)
    assert [call.complete for call in index.calls] == [True]
    assert index.notes() == []


def test_a_full_disk(short_dir: Path, runtime: EmbeddedRuntime) -> None:
    """A cassette that cannot be written is one line and exit status 1."""
    (short_dir / "calls.cassette").symlink_to("/dev/full")
    command = [sys.executable, "-m", "criproxy", "record", str(short_dir / "calls.cassette")]
    command += ["--listen", f"{short_dir}/r.sock", "--runtime-endpoint", runtime.endpoint]
    done = subprocess.run([*command, "--force"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        f"criproxy: {short_dir}/calls.cassette: cannot be written: No space left on device\n",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-size", "10KiB"], "--max-size: is less than 1MiB"),
        (["--no-redact", "--redact-value", "a"], "--no-redact: leaves nothing"),
        (["--redact-value", "("], "--redact-value: "),
        (["--slower-than", "1s"], "conditions on calls need --ring"),
        (["--ring", "1MiB", "--code", "OOPS"], "--code: 'OOPS' is no code of gRPC"),
        (["--ring", "2MiB", "--max-size", "3MiB"], "--ring: is more than half of --max-size"),
        (["--listen", "/tmp/a", "--runtime-endpoint", "relative"], "endpoint"),
    ],
)
def test_wrong_options(tmp_path: Path, options: list[str], message: str) -> None:
    """A wrong option is named; no file is created."""
    file = tmp_path / "a"
    needed = ["--listen", "/tmp/a", "--runtime-endpoint", "/tmp/b", str(file)]
    error = CliRunner().invoke(command, [*needed, *options]).exception
    assert isinstance(error, UsageError)
    assert message in str(error)
    assert not file.exists()
