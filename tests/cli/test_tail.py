"""``criproxy tail``: the calls of a log while it is written."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from criproxy.audit.dropped import DroppedRecords
from criproxy.cli import cli
from criproxy.cli.calls.payload_lines import LIMIT
from criproxy.cli.support import tables
from criproxy.cli.support.admin_client import AdminClient
from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.errors import UnavailableError, UsageError
from tests.cli.test_pods import audited, logged, text_of
from tests.support.audited import maker, observed, v1
from tests.support.criproxy import Criproxy
from tests.support.waiting import LIMIT_SECONDS, wait_until
from tests.timeline.calls import Calls

POD = {"metadata": {"name": "web", "namespace": "shop", "uid": "u-1"}}


def tail(*arguments: object, stdin: str = "") -> Result:
    return CliRunner().invoke(cli, ["tail", "-", *map(str, arguments)], input=stdin)


@pytest.fixture
def calls() -> Calls:
    calls = Calls()
    calls.sandbox(1.0)
    calls.pull(2.5, code="NOT_FOUND")
    calls.call("ContainerStatus", 0.01, container="app", executable="/usr/bin/kubelet")
    calls.pull(3.0, code="")
    return calls


def test_lines(calls: Calls) -> None:
    """A line has the time, method, code, duration, caller, and pod with container or image."""
    text = text_of([logged(call) for call in calls.made[:2]])
    text += text_of([audited(calls.made[2])])
    heading, run, pull, status = tail(stdin=text).stdout.splitlines()
    assert heading.split() == ["TIME", "METHOD", "CODE", "DURATION", "CALLER", "POD"]
    assert run.split() == ["22:13:21.000", "RunPodSandbox", "OK", "1.0", "s", "-", "shop/web"]
    assert pull.split()[1:3] == ["PullImage", "NOT_FOUND"]
    assert pull.endswith("shop/web docker.io/library/nginx:1")
    assert status.split()[1:] == ["ContainerStatus", "OK", "10", "ms", "-", "shop/web/app"]


def test_json_lines(calls: Calls) -> None:
    """As JSON the lines of the selected calls are as they are in the log, byte by byte."""
    lines = [json.dumps(logged(call), indent=None) for call in calls.made]
    text = "".join(line + "\n" for line in [lines[0], '{"event": "ready"}', *lines[1:], "torn"])
    result = tail("-o", "json", stdin=text)
    assert result.stdout.splitlines() == lines
    assert result.stderr == "criproxy: 1 lines skipped that are no JSON\n"
    result = tail("-o", "json", "--code", "!OK", "--slower-than", "2s", stdin=text)
    assert result.stdout.splitlines()[0] == lines[1]
    assert tail("-o", "json", "--method", "Exec*", stdin=text).stdout == ""


def test_colours(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a failed call is red and a read dim; elsewhere there are no colours."""
    text = text_of([logged(call) for call in calls.made[:3]])
    assert "\x1b" not in tail(stdin=text).stdout
    monkeypatch.setattr(tables, "has_colours", lambda: True)
    result = CliRunner().invoke(cli, ["tail", "-"], input=text, color=True)
    _, run, pull, status = result.stdout.splitlines()
    assert "\x1b" not in run
    assert pull.startswith("\x1b[31m")
    assert status.startswith("\x1b[2m")


def test_bad_options(tmp_path: Path) -> None:
    """A code that gRPC does not have, and a missing file, are errors that name them."""
    assert "--code: 'NOTFOUND' is no code of gRPC" in str(tail("--code", "NOTFOUND").exception)
    wrong = tail("--where", "metod == 'x'").exception
    assert isinstance(wrong, UsageError)
    assert str(wrong).startswith("--where: 1:1: undeclared reference to 'metod'")
    result = CliRunner().invoke(cli, ["tail", str(tmp_path / "missing")])
    assert "missing: No such file or directory; name the log" in str(result.exception)
    assert "name either FILE, or the daemon" in str(tail("--admin", "/run/x").exception)
    result = CliRunner().invoke(cli, ["tail", "--all"])
    assert "--all is about what FILE has already" in str(result.exception)
    result = CliRunner().invoke(cli, ["tail", "--admin", str(tmp_path / "missing")])
    assert "missing: No such file or directory; name the daemon's admin" in str(result.exception)


def test_payload_of_an_audit_log() -> None:
    """The messages of a record are lines below that of the call, cut where they are long."""
    item = observed("RunPodSandbox", v1.RunPodSandboxRequest(runtime_handler="kata\u202e"))
    stream = observed("GetContainerEvents", None, v1.ContainerEventResponse(container_id="c"))
    large = observed("ImageStatus", None, v1.ImageStatusResponse(info={"a" * 5000: "b"}))
    unknown = observed("/x.Y/Z", b"junk")
    cut = observed("Version", v1.VersionRequest(version="1"))
    assert cut.call.capture is not None
    assert cut.call.capture.response is not None
    cut.call.capture.response.cut = True
    items = (item, stream, large, unknown, cut)
    records = [maker().make(each) for each in items]
    text = b"".join(each.line + b"\n" for each in records if each is not None).decode()
    whole = json.dumps(json.loads(text.splitlines()[2])["responseObject"], separators=(",", ":"))
    more = f"\N{HORIZONTAL ELLIPSIS} ({len(whole) - LIMIT} more characters; -o json has all)"
    result = tail("--payload", stdin=text)
    assert [line for line in result.stdout.splitlines() if line.startswith(" ")] == [
        '  request   {"runtimeHandler":"kata\\u202e"}',
        '  response  [{"containerId":"c"}]',
        f"  response  {whole[:LIMIT]}{more}",
        "  request   unreadable: the method is not of the CRI",
        '  request   {"version":"1"}',
        "  response  not captured: too large, or sent before",
    ]
    assert (result.stderr, result.exit_code) == ("", 0)


def test_payload_of_a_call_log(calls: Calls) -> None:
    """Calls without messages are counted, and the reason is given; JSON is as it is in the log."""
    text = text_of([logged(call) for call in calls.made])
    result = tail("--payload", stdin=text)
    assert "4 calls without messages: a call log has none" in result.stderr
    assert tail("--payload", "-o", "json", stdin=text).stdout == text


def test_where(calls: Calls) -> None:
    """An expression selects calls beside the options; what it fails for is counted."""
    text = text_of([logged(call) for call in calls.made])
    shown = tail("--where", "duration > duration('2s')", "--code", "NOT_FOUND", stdin=text)
    (pull,) = shown.stdout.splitlines()[1:]
    assert pull.split()[1:3] == ["PullImage", "NOT_FOUND"]
    result = tail("--where", "request.image.image == 'x'", "--method", "PullImage", stdin=text)
    assert len(result.stdout.splitlines()) == 1
    assert (
        "2 calls left out, as --where could not be evaluated: only the audit log" in result.stderr
    )
    assert result.exit_code == 0


@contextmanager
def following(*arguments: object, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A running ``criproxy tail``, which is interrupted at the end."""
    command = [sys.executable, "-m", "criproxy", "tail", *map(str, arguments)]
    with output.open("wb") as file, subprocess.Popen(command, stdout=file) as process:
        try:
            yield process
            process.send_signal(signal.SIGINT)
            assert process.wait(LIMIT_SECONDS) == 0
        finally:
            process.kill()


def test_a_running_daemon(short_dir: Path) -> None:
    """Calls are shown as they end, also behind a rotation of the log."""
    log, output = short_dir / "criproxy.log", short_dir / "output"
    config = {"log": {"file": str(log), "pods": True}}
    with (
        EmbeddedRuntime(f"unix://{short_dir}/cri.sock") as runtime,
        Criproxy(short_dir, runtime.endpoint, config=config) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
        following(log, "--all", "-n", "shop", "-o", "json", output=output),
    ):

        def shown() -> list[tuple[str, str]]:
            whole = output.read_text().rpartition("\n")[0]
            lines = map(json.loads, whole.splitlines())
            return [(line["method"], line["pod"]) for line in lines]

        pod = client.RunPodSandbox(config=POD).pod_sandbox_id
        client.Version()
        expected = [("RunPodSandbox", "web")]
        wait_until(lambda: shown() == expected, "the first call")
        log.rename(short_dir / "criproxy.log.1")
        proxy.process.signal(signal.SIGUSR1)
        wait_until(log.exists, "the new file")
        client.StopPodSandbox(pod_sandbox_id=pod)
        expected.append(("StopPodSandbox", "web"))
        wait_until(lambda: shown() == expected, "the call after the rotation")


def test_the_admin_socket(short_dir: Path) -> None:
    """Without a file, the calls of a running daemon are shown as they end, named, also reads."""
    output = short_dir / "output"
    config = {"admin": {"socket": f"unix://{short_dir}/admin.sock"}}
    with (
        EmbeddedRuntime(f"unix://{short_dir}/cri.sock") as runtime,
        Criproxy(short_dir, runtime.endpoint, config=config) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
        following("-c", proxy.file, "--code", "OK", output=output),
    ):
        wait_until(output.read_text, "the heading")
        pod = client.RunPodSandbox(config=POD).pod_sandbox_id
        client.PodSandboxStatus(pod_sandbox_id=pod)
        wait_until(lambda: output.read_text().count("\n") == 3, "the calls")
        _, run, status = output.read_text().splitlines()
        assert run.split()[1:3] == ["RunPodSandbox", "OK"]
        assert status.split()[1:3] == ["PodSandboxStatus", "OK"]
        assert run.endswith("  shop/web")
        assert status.endswith("  shop/web")


def test_calls_that_were_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a daemon is an error; before that, the calls that were missed are told.

    Records are read, which cost the daemon more, where lines do not suffice.
    """
    pages: list[str] = []

    def lines(client: AdminClient, page: str) -> Iterator[bytes]:
        pages.append(page)
        yield b'{"event":"calls lost","count":7}'
        yield DroppedRecords().line("n", "stdout", 0).replace(b'"dropped":0', b'"dropped":3')
        raise UnavailableError("the daemon has ended")

    monkeypatch.setattr(AdminClient, "lines", lines)
    result = CliRunner().invoke(cli, ["tail", "-o", "json"])
    assert str(result.exception) == "the daemon has ended"
    assert result.stdout == ""
    assert result.stderr == "criproxy: 10 calls missed, as they were not read in time\n"
    for option in (["--payload"], ["--where", "caller.kubelet"], ["--where", "code == ''"]):
        CliRunner().invoke(cli, ["tail", *option])
    assert pages == ["tail", "records", "records", "tail"]
