"""``criproxy demo`` as a user runs it: its output, its errors, and its cleanup."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from criproxy.client import CriClient
from criproxy.demo.rule_cases import POD
from criproxy.embedded.process import RuntimeProcess
from tests.support.containerd import Containerd
from tests.support.process import Process
from tests.support.waiting import LIMIT_SECONDS, wait_until

CALL = re.compile(r"^\d\d:\d\d:\d\d\.\d{3}  (\w+) +(-|demo-\w+) +(\w+) +[\d.]+ (?:µs|ms|s)$", re.M)
ROW = re.compile(r"^(\w+|all but streams) +(\d+) +(\d+)  +(?:[\d.]+ (?:µs|ms|s)|-) ", re.M)
RECORD = re.compile(r"^  \{.*?\}$", re.M | re.S)
AGREE = re.compile(r"^The client made (\d+) calls; the proxy's metrics agree", re.M)

Start = Callable[..., Process]


@pytest.fixture
def start(short_dir: Path) -> Iterator[Start]:
    """Starts demos in a temporary directory of their own; they must leave nothing in it."""
    started: list[Process] = []
    temporary = short_dir / "tmp"
    temporary.mkdir()

    def start(*arguments: str) -> Process:
        command = [sys.executable, "-m", "criproxy", "demo", *arguments]
        output = short_dir / f"demo{len(started)}"
        process = Process(command, output=output, env={"TMPDIR": str(temporary)})
        started.append(process)
        process.start()
        return process

    yield start
    for process in started:
        process.kill()
    assert list(temporary.iterdir()) == []
    wait_until(lambda: not _processes_that_name(temporary), "the end of all processes")


def _processes_that_name(path: Path) -> list[bytes]:
    found = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = cmdline.read_bytes()
        except OSError:
            continue
        if bytes(path) in command:
            found.append(command)
    return found


def _await_pod(demo: Process) -> None:
    wait_until(lambda: "RunPodSandbox" in demo.stdout, "pod", report=lambda: demo.stderr)


def _assert_shown(demo: Process) -> None:
    """Hold the table's calls against the lines', which the client's count is."""
    calls = CALL.findall(demo.stdout)
    assert {"RunPodSandbox", "StopContainer", "RemovePodSandbox"} <= {name for name, *_ in calls}
    table = {name: (int(count), int(errors)) for name, count, errors in ROW.findall(demo.stdout)}
    unary = [call for call in calls if call[0] != "GetContainerEvents"]
    for name in {name for name, *_ in unary}:
        codes = [code for called, _, code in unary if called == name]
        assert table[name] == (len(codes), len(codes) - codes.count("OK"))
    assert table["all but streams"][0] == len(unary)
    agreement = AGREE.search(demo.stdout)
    assert agreement is not None
    assert int(agreement[1]) == len(calls)


def test_shows_each_call_and_what_the_proxy_saw(start: Start) -> None:
    """Each call is a line and the table counts the same calls; in a pipe it is plain text."""
    demo = start("--for", "2s")
    assert demo.wait() == 0, demo.stderr
    _assert_shown(demo)
    assert "\x1b" not in demo.stdout
    assert demo.stderr == ""


def test_shows_what_rules_do(start: Start) -> None:
    """One call is denied, one has its image renamed, one hangs and is found; each has a record."""
    demo = start("--for", "100ms")
    assert demo.wait() == 0, demo.stderr
    codes = [(method, code) for method, pod, code in CALL.findall(demo.stdout) if pod == POD]
    assert ("CreateContainer", "PERMISSION_DENIED") in codes
    assert ("ExecSync", "CANCELLED") in codes
    said = " ".join(demo.stdout.split())
    assert "denied by a rule: no privileged containers on this node" in said
    assert re.search(
        r"asked for mirror\.example/(\S+), the runtime has registry\.k8s\.io/\1 ", said
    )
    assert re.search(
        rf"found by /calls after [\d.]+ s: ExecSync in pod criproxy-demo/{POD}, ", said
    )
    records = [json.loads(" ".join(text.split())) for text in RECORD.findall(demo.stdout)]
    assert [(record["rules"], record["code"]) for record in records] == [
        (["no-privileged"], "PERMISSION_DENIED"),
        (["use-registry"], "OK"),
        (["hanging-exec"], "CANCELLED"),
    ]


def test_an_image_without_a_registry_is_not_renamed(start: Start) -> None:
    """A short name has no registry to be replaced; the other rules are shown."""
    demo = start("--for", "100ms", "--image", "busybox")
    assert demo.wait() == 0, demo.stderr
    assert "denied by a rule" in demo.stdout
    assert "renamed" not in demo.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_early_with_the_table(start: Start, number: signal.Signals) -> None:
    """A signal ends the client's work; what was made is removed and the table still comes."""
    demo = start("--for", "10m")
    _await_pod(demo)
    demo.signal(number)
    assert demo.wait() == 0, demo.stderr
    _assert_shown(demo)


def test_ends_when_nobody_reads_any_more(start: Start, short_dir: Path) -> None:
    """A closed pipe, as of head, ends the demo silently and cleanly."""
    with subprocess.Popen(
        [sys.executable, "-m", "criproxy", "demo", "--for", "10m"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(short_dir / "tmp")},
    ) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        assert demo.stdout.readline().startswith(b"runtime  unix://")
        demo.stdout.close()
        assert demo.stderr.read() == b""
        assert demo.wait() == 0


def test_leaves_a_given_runtime_as_it_was(start: Start, short_dir: Path) -> None:
    """On a runtime that was there before, pods, containers and the pulled image are removed."""
    with RuntimeProcess(f"unix://{short_dir}/cri.sock", latency="none", pods=2) as runtime:
        before = _contents(runtime.endpoint)
        image = "docker.io/library/redis:7"
        demo = start(
            *("--runtime-endpoint", runtime.endpoint, "--for", "2s"),
            *("--image", image, "--", "sleep", "60"),
        )
        _await_pod(demo)
        with CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as client:
            made = [pod for pod in client.ListPodSandbox().items if _is_made(pod.labels)]
        assert demo.wait() == 0, demo.stderr
        assert {pod.metadata.namespace for pod in made} == {"criproxy-demo"}
        _assert_shown(demo)
        assert "PullImage" in demo.stdout
        assert _contents(runtime.endpoint) == before


def _is_made(labels: dict[str, str]) -> bool:
    return "criproxy.dev/run" in labels


def _contents(endpoint: str) -> tuple[list[str], list[str], list[str]]:
    with CriClient(endpoint, timeout=LIMIT_SECONDS) as client:
        return (
            sorted(pod.id for pod in client.ListPodSandbox().items),
            sorted(container.id for container in client.ListContainers().containers),
            sorted(image.id for image in client.ListImages().images),
        )


def test_a_second_signal_gives_up_on_a_runtime_that_hangs(start: Start, short_dir: Path) -> None:
    """Calls that never return are cut off at the second signal, and what is left is named."""
    with RuntimeProcess(f"unix://{short_dir}/cri.sock") as runtime:
        demo = start("--runtime-endpoint", runtime.endpoint, "--for", "10m")
        _await_pod(demo)
        assert runtime.pid is not None
        os.kill(runtime.pid, signal.SIGSTOP)
        try:
            demo.signal(signal.SIGINT)
            wait_until(lambda: "ending; once more" in demo.stdout, "answer to the signal")
            demo.signal(signal.SIGINT)
            assert demo.wait() == 1
        finally:
            os.kill(runtime.pid, signal.SIGCONT)
        assert "what is left has the label criproxy.dev/run=" in demo.stderr
        assert demo.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--for", "soon"], 2, "--for: 'soon' is not a duration"),
        (["--for", "0"], 2, "--for: '0' is no time to show anything in"),
        (["--runtime-endpoint", "tcp://localhost:1"], 2, "scheme 'tcp' is not supported"),
        (["--runtime-endpoint", "/nowhere/cri.sock"], 1, "no such file"),
        (["--image", "nope.invalid/app:1"], 1, "failed to pull"),
    ],
)
def test_what_cannot_be_is_one_line(
    start: Start, arguments: Sequence[str], status: int, says: str
) -> None:
    """A user's mistake is one line on stderr, with the exit status of its kind."""
    demo = start(*arguments)
    assert demo.wait() == status
    assert says in demo.stderr
    assert demo.stderr.count("\n") == 1


@pytest.mark.e2e
def test_works_on_a_real_containerd(start: Start, short_dir: Path) -> None:
    """On containerd it says what to do without an image, and leaves no pod behind."""
    with Containerd(short_dir / "containerd") as containerd:
        demo = start("--runtime-endpoint", containerd.endpoint)
        assert demo.wait() == 1
        assert "name one with --image" in demo.stderr
        containerd.import_image()
        demo = start("--runtime-endpoint", containerd.endpoint, "--for", "5s")
        assert demo.wait(LIMIT_SECONDS) == 0, demo.stderr
        _assert_shown(demo)
        with CriClient(containerd.endpoint, timeout=LIMIT_SECONDS) as client:
            assert not client.ListPodSandbox().items
            assert not client.ListContainers().containers


def test_what_the_readme_shows(start: Start) -> None:
    """The README's excerpt has headings, calls, a record and an end as the demo prints them."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    shown = readme.partition("$ make demo ")[2].partition("```text\n")[2].partition("```")[0]
    demo = start("--for", "1s")
    assert demo.wait() == 0, demo.stderr
    headings = {
        line
        for line in shown.splitlines()
        if line.startswith(("TIME ", "METHOD ", "What ", "The audit "))
    }
    assert len(headings) == 4
    assert headings <= set(demo.stdout.splitlines())
    calls = {(method, code) for method, _, code in CALL.findall(shown)}
    assert ("CreateContainer", "PERMISSION_DENIED") in calls
    assert calls <= {(method, code) for method, _, code in CALL.findall(demo.stdout)}
    records = [
        json.loads(" ".join(RECORD.findall(text)[0].split())) for text in (shown, demo.stdout)
    ]
    assert records[0].keys() == records[1].keys()
    assert ROW.search(shown)
    assert AGREE.search(shown)
