"""``criproxy pods``: pod starts from logs of either kind, whole or torn."""

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from criproxy.cli import cli
from criproxy.cli.calls import pods as module
from criproxy.cli.support import tables
from criproxy.client import CriClient
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.timeline.logged_call import LoggedCall
from tests.support.cassettes import Made, cassette_of, cassette_of_capture
from tests.support.criproxy import Criproxy
from tests.support.waiting import LIMIT_SECONDS, wait_until
from tests.timeline.calls import NGINX, Calls
from tests.timeline.log_lines import audited, logged, text_of


def pods(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["pods", *map(str, arguments)], input=stdin)


@pytest.fixture
def calls() -> list[LoggedCall]:
    """Two pods: web had a slow pull, api a quick start."""
    web = Calls("web")
    web.sandbox(1.0)
    web.pull(31.0)
    web.container()
    api = Calls("api", 2.0, namespace="prod")
    api.sandbox(0.2)
    api.container(create=0.25)
    return sorted((*web.made, *api.made), key=lambda call: call.until)


@pytest.fixture
def log(tmp_path: Path, calls: list[LoggedCall]) -> Path:
    path = tmp_path / "criproxy.log"
    path.write_text(text_of([{"event": "ready"}, *map(logged, calls)]))
    return path


def test_table(log: Path) -> None:
    """A start is a line with its times, in order of their beginning, and the cause in words."""
    result = pods(log)
    header, web, api = result.stdout.splitlines()
    assert header.split()[-6:] == ["SANDBOX", "PULL", "CREATE", "START", "WAITS", "CAUSE"]
    assert web.split()[:6] == ["2023-11-14", "22:13:20", "-", "shop", "web", "started"]
    assert web.endswith(f"image pull of {NGINX}: 31.0 s of 33.0 s")
    assert api.endswith("start of container app: 500 ms of 950 ms")
    assert (result.exit_code, result.stderr) == (0, "")


def test_json(log: Path) -> None:
    """As JSON a start has all of its phases, which sum up to the whole."""
    web, api = map(json.loads, pods(log, "-o", "json").stdout.splitlines())
    assert (web["pod"], web["namespace"], web["state"]) == ("web", "shop", "started")
    assert web["cause"]["kind"] == "pull"
    assert web["cause"]["subject"] == NGINX
    assert [each["kind"] for each in web["phases"]] == ["sandbox", "pull", "create", "start"]
    for start in (web, api):
        parts = ("sandbox_s", "pull_s", "create_s", "start_s", "waits_s")
        assert sum(start[part] for part in parts) == pytest.approx(start["seconds"])
        phases = sum(each["seconds"] for each in start["phases"])
        assert phases == pytest.approx(start["seconds"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), ["web", "api"]),
        (("-n", "prod"), ["api"]),
        (("--pod", "w*"), ["web"]),
        (("--pod", "web", "--pod", "api"), ["web", "api"]),
        (("--slower-than", "30s"), ["web"]),
        (("--since", "2023-11-14T22:13:21Z"), ["api"]),
        (("--until", "2023-11-14T22:13:21Z"), ["web"]),
        (("-n", "none"), []),
    ],
)
def test_selection(log: Path, options: tuple[str, ...], expected: list[str]) -> None:
    """Options select starts by namespace, pod, duration and time."""
    lines = pods(log, "-o", "json", *options).stdout.splitlines()
    assert [json.loads(line)["pod"] for line in lines] == expected


def test_sources(tmp_path: Path, calls: list[LoggedCall]) -> None:
    """Audit logs, rotated and compressed files and standard input give the same starts."""
    log = tmp_path / "audit.jsonl"
    log.write_text(text_of([audited(call) for call in calls[4:]]))
    rotated = tmp_path / "audit.jsonl.1.gz"
    rotated.write_bytes(gzip.compress(text_of([audited(call) for call in calls[:4]]).encode()))
    from_files = pods(log, "-o", "json").stdout
    assert [json.loads(line)["node"] for line in from_files.splitlines()] == ["n1", "n1"]
    whole = text_of([audited(call) for call in calls])
    assert pods("-", "-o", "json", stdin=whole).stdout == from_files


def test_a_recording(tmp_path: Path) -> None:
    """A recorded kubelet's calls tell how its pods started, whichever lists named them. What is
    left of a damaged recording does, too, and the damage is named."""
    cassette = cassette_of_capture(tmp_path / "calls.cassette", "kubelet-01")
    result = pods(cassette, "-o", "json")
    assert (result.exit_code, result.stderr) == (0, "")
    starts = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(each["pod"], each["cause"]["kind"]) for each in starts] == [
        ("static-web-labnode", "sandbox"),
        ("static-job-labnode", "kubelet"),
    ]
    names = {each["subject"] for start in starts for each in start["phases"]}
    assert {"init", "web", "ticker", "job"} <= {name.split("/")[-1] for name in names}
    data = cassette.read_bytes()
    cassette.write_bytes(data[:-20])
    error = pods(cassette)
    assert error.stderr.startswith(f"criproxy: {cassette}: byte ")


def test_calls_in_flight_at_the_end_of_a_recording(tmp_path: Path) -> None:
    """A start whose last call has not ended when the recording does goes on."""
    box = "a" * 64
    config = v1.PodSandboxConfig(metadata=v1.PodSandboxMetadata(name="web", namespace="shop"))
    image = v1.ImageSpec(image=NGINX)
    cassette = cassette_of(
        tmp_path / "calls.cassette",
        [
            Made(
                "RunPodSandbox",
                *(1, 2, v1.RunPodSandboxRequest(config=config)),
                [v1.RunPodSandboxResponse(pod_sandbox_id=box)],
            ),
            Made(
                "PullImage",
                *(3, None, v1.PullImageRequest(image=image, sandbox_config=config)),
                service="runtime.v1.ImageService",
            ),
            Made("Version", 40, 41, v1.VersionRequest(), [v1.VersionResponse()]),
        ],
    )
    (start,) = map(json.loads, pods(cassette, "-o", "json").stdout.splitlines())
    assert (start["pod"], start["state"], start["seconds"]) == ("web", "running", 40.0)
    assert start["cause"]["text"] == f"image pull of {NGINX}, still running: 38.0 s of 40.0 s"


def test_torn_lines(log: Path) -> None:
    """Lines that are no JSON are skipped and counted, and the first is named."""
    first, second, *rest = log.read_text().splitlines(keepends=True)
    log.write_text("".join([first, second[:40] + "\n", second, *rest, '{"event": "ca']))
    result = pods(log)
    assert len(result.stdout.splitlines()) == 3
    expected = f"criproxy: 2 lines skipped: no JSON; the first is {log}:2\n"
    assert (result.exit_code, result.stderr) == (0, expected)


def test_other_files(tmp_path: Path) -> None:
    """A file that is no log is one error that names it, its line and what to do."""
    path = tmp_path / "console.log"
    path.write_text("2026-11-22 [info] call method=Version\n")
    error = pods(path).exception
    assert str(error).startswith(f"{path}:1: is no JSON, and no line is a call; name an audit log")
    assert "no such file" in str(pods(tmp_path / "missing").exception)
    assert "stands alone" in str(pods("-", path).exception)
    assert "is not a duration" in pods(path, "--slower-than", "5x").stderr


def test_nothing_to_tell(tmp_path: Path, calls: list[LoggedCall]) -> None:
    """It is said why there are no starts: no calls, or calls that name no pod."""
    path = tmp_path / "criproxy.log"
    path.write_text('{"event": "ready"}\n')
    assert pods(path).stderr == f"criproxy: {path}: no line is about a call\n"
    nameless = [logged(call) for call in calls]
    for line in nameless:
        line.pop("pod")
    path.write_text(text_of(nameless))
    result = pods(path)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "7 calls do not name their pod; write the call log with log.pods: true" in result.stderr


def test_colours(log: Path, monkeypatch: pytest.MonkeyPatch, calls: list[LoggedCall]) -> None:
    """A failing start is red on a terminal, and only there."""
    failing = Calls("bad")
    failing.sandbox()
    failing.pull(1.0, code="NOT_FOUND")
    log.write_text(text_of([logged(call) for call in (*calls, *failing.made)]))
    assert "\x1b" not in pods(log).stdout
    monkeypatch.setattr(tables, "has_colours", lambda: True)
    result = CliRunner().invoke(cli, ["pods", str(log)], color=True)
    (line,) = [each for each in result.stdout.splitlines() if " bad " in each]
    assert line.startswith("\x1b[31m")
    (line,) = [each for each in result.stdout.splitlines() if " web " in each]
    assert "\x1b" not in line


@pytest.mark.parametrize("width", [200, 120, 80])
def test_terminals(log: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """A table fits the terminal; the pod, the whole and the cause are always there."""
    monkeypatch.setattr(module, "_is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    header, web, _ = pods(log).stdout.splitlines()
    assert max(len(header), len(web)) <= width
    assert {"NAMESPACE", "POD", "TOTAL", "CAUSE"} <= set(header.split())
    assert web.endswith("31.0 s of 33.0 s")
    assert ("CREATE" in header) is (width == 200)
    assert "CREATE" in pods(log, "--wide").stdout.splitlines()[0]


def test_a_running_daemon(short_dir: Path) -> None:
    """Without files, the last starts of a running daemon are shown, also those that go on."""
    config = {"admin": {"socket": f"unix://{short_dir}/admin.sock"}}
    with (
        EmbeddedRuntime(f"unix://{short_dir}/cri.sock") as runtime,
        Criproxy(short_dir, runtime.endpoint, config=config) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        for name, namespace in (("web", "shop"), ("db", "shop"), ("dns", "kube-system")):
            metadata = {"name": name, "namespace": namespace, "uid": name}
            client.RunPodSandbox(config={"metadata": metadata})
        wait_until(lambda: pods("-c", proxy.file).stdout.count(" unfinished ") == 3, "the pods")
        result = pods("-c", proxy.file, "-n", "shop")
        header, web, db = result.stdout.splitlines()
        assert header.split()[:4] == ["BEGAN", "NODE", "NAMESPACE", "POD"]
        assert web.split()[2:6] == ["-", "shop", "web", "unfinished"]
        assert "pod sandbox and its network: " in db
        (start,) = map(
            json.loads, pods("-c", proxy.file, "--pod", "dns", "-o", "json").stdout.splitlines()
        )
        assert (start["pod"], start["phase"]["kind"]) == ("dns", "kubelet")
    error = pods("-c", proxy.file, "log.json").exception
    assert "name either FILES, or the daemon with --admin or -c" in str(error)
