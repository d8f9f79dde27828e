"""criproxy replay --against: the recorded reads, asked of a runtime again."""

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from criproxy.cassette.reader import CassetteReader
from criproxy.cassette.records import CallBegan
from criproxy.cli.replay import command
from criproxy.client import CriClient
from criproxy.cri.naming import resolve
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.errors import UnavailableError, UsageError
from criproxy.replay.comparison import quantile
from tests.support.cassettes import Made, cassette_of
from tests.support.recording import Recording
from tests.support.waiting import LIMIT_SECONDS


def read_all(client: CriClient) -> None:
    """Make calls that read, of every kind, and some that change something."""
    (first, *_) = client.ListContainers().containers
    client.UpdateContainerResources(container_id=first.id, linux={"cpu_shares": 2})
    client.ReopenContainerLog(container_id=first.id)
    client.Version()
    client.Status(verbose=True)
    client.ListImages()
    client.ImageFsInfo()
    sandboxes = client.ListPodSandbox().items
    for container in client.ListContainers().containers:
        client.ContainerStatus(container_id=container.id, verbose=True)
        client.ContainerStats(container_id=container.id)
    client.ListContainerStats(filter={"pod_sandbox_id": sandboxes[0].id})
    list(client.StreamContainers())


def against(file: Path, endpoint: str, *options: str) -> Result:
    return CliRunner().invoke(command, [str(file), "--against", endpoint, *options])


def record(short_dir: Path, runtime: EmbeddedRuntime) -> Path:
    with Recording(short_dir, runtime.endpoint) as recording:
        with CriClient(recording.endpoint, timeout=LIMIT_SECONDS) as client:
            read_all(client)
        assert recording.stop() == 0
    return recording.file


def test_the_same_runtime(short_dir: Path) -> None:
    """A runtime whose state is the same has no differences; only reads are asked."""
    with EmbeddedRuntime(f"unix://{short_dir}/cri.sock", pods=3) as runtime:
        file = record(short_dir, runtime)
        (short_dir / "again").mkdir()
        with Recording(short_dir / "again", runtime.endpoint) as second:
            result = against(file, second.endpoint, "--repeat", "2")
            assert (result.exit_code, result.stderr) == (0, "")
            assert second.stop() == 0
    assert result.stdout.endswith("14 requests asked, none answered differently\n")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["METHOD", "RECORDED", "P50", "P95", "NOW", "P50", "P95", "FACTOR"]
    methods = [line.split()[0] for line in lines[1 : lines.index("")]]
    assert methods == sorted({*methods})
    with CassetteReader(second.file) as reader:
        asked = [each.path.encode() for each in reader if isinstance(each, CallBegan)]
    assert len(asked) == 28
    assert not any(resolve(path).mutating for path in asked)


def test_a_changed_runtime(short_dir: Path) -> None:
    """What a runtime answers otherwise is named, with what was recorded; exit status 1."""
    with EmbeddedRuntime(f"unix://{short_dir}/cri.sock", pods=3) as runtime:
        file = record(short_dir, runtime)
        with CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as client:
            first, second, _ = client.ListContainers().containers
            client.StopContainer(container_id=first.id)
            client.StopContainer(container_id=second.id)
            client.RemoveContainer(container_id=second.id)
        result = against(file, runtime.endpoint, "-o", "json")
        text = against(file, runtime.endpoint)
    assert (result.exit_code, text.exit_code) == (1, 1)
    found: dict[str, Any] = json.loads(result.stdout)
    differences = {(each["method"], each["request"]): each for each in found["differences"]}
    status = differences["ContainerStatus", f"container_id '{first.id}'"]
    assert (status["recorded"], status["now"]) == ("OK", "OK")
    assert "status.state: CONTAINER_RUNNING -> CONTAINER_EXITED" in status["changes"]
    gone = differences["ContainerStatus", f"container_id '{second.id}'"]
    assert gone["now"].startswith("NOT_FOUND: ")
    assert {method for method, _ in differences} >= {"ListContainers", "StreamContainers"}
    assert not {"Version", "Status", "ListImages", "ImageFsInfo"} & {
        method for method, _ in differences
    }
    assert f"\nContainerStatus container_id '{first.id}'\n  status.state: " in text.stdout


def test_a_slower_runtime(short_dir: Path) -> None:
    """With --max-slowdown a method that takes longer is a difference, otherwise not."""
    answer = v1.VersionResponse()
    with EmbeddedRuntime(f"unix://{short_dir}/cri.sock") as runtime:
        with CriClient(runtime.endpoint) as client:
            answer = client.Version()
        file = cassette_of(
            short_dir / "a", [Made("Version", 1, 1 + 1e-9, v1.VersionRequest(), [answer])]
        )
        assert against(file, runtime.endpoint).exit_code == 0
        result = against(file, runtime.endpoint, "--max-slowdown", "1.5")
        assert result.exit_code == 1
        assert " slower\n" in result.stdout
        result = against(file, runtime.endpoint, "--max-slowdown", "1.5", "-o", "json")
    (latency,) = json.loads(result.stdout)["latencies"]
    assert (latency["slower"], latency["recorded"]["calls"], latency["now"]["calls"]) == (
        True,
        1,
        5,
    )


def test_an_answer_that_varied(short_dir: Path) -> None:
    """An answer that equals any of those that were recorded is no difference."""
    with EmbeddedRuntime(f"unix://{short_dir}/cri.sock", pods=1) as runtime:
        with CriClient(runtime.endpoint) as client:
            listed = client.ListContainers()
        other = v1.ListContainersResponse(containers=[v1.Container(id="other")])
        request = v1.ListContainersRequest()
        calls = [
            Made("ListContainers", 1, 2, request, [listed]),
            Made("ListContainers", 3, 4, request, [other]),
        ]
        file = cassette_of(short_dir / "a", calls)
        assert against(file, runtime.endpoint).exit_code == 0
        file = cassette_of(short_dir / "b", calls[1:])
        assert against(file, runtime.endpoint).exit_code == 1


def test_nothing_to_compare(short_dir: Path) -> None:
    """A socket where nobody listens, and a cassette without reads, are one line each."""
    request = v1.StartContainerRequest(container_id="a")
    made = [Made("StartContainer", 1, 2, request, [v1.StartContainerResponse()])]
    file = cassette_of(short_dir / "a", made)
    assert isinstance(against(file, f"{short_dir}/none.sock").exception, UnavailableError)
    with EmbeddedRuntime(f"unix://{short_dir}/cri.sock") as runtime:
        error = against(file, runtime.endpoint).exception
    assert isinstance(error, UsageError)
    assert "has no answered call that only reads" in str(error)


def test_one_of_two() -> None:
    """Either --as-runtime or --against is needed."""
    for options in ([], ["--as-runtime", "/tmp/a", "--against", "/tmp/b"]):
        error = CliRunner().invoke(command, ["file", *options]).exception
        assert isinstance(error, UsageError)
        assert str(error) == "give one of --as-runtime and --against"


def test_quantiles() -> None:
    """A quantile is one of the values."""
    assert [quantile([3, 1, 2], each) for each in (0, 0.5, 0.95, 1)] == [1, 2, 3, 3]
    assert quantile([], 0.5) == 0
