"""``criproxy top``: what it prints of a running daemon, and its errors."""

import contextlib
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from click.testing import CliRunner, Result

from criproxy.cli import cli
from criproxy.client import CriClient
from criproxy.daemon.supervisor.http.admin import AdminSocket
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.errors import UnavailableError, UsageError
from criproxy.relay.endpoints import Endpoint
from tests.support.criproxy import Criproxy
from tests.support.waiting import LIMIT_SECONDS, wait_until

POD = {"metadata": {"name": "web", "namespace": "shop", "uid": "u-1"}}
IMAGE = "example.test/app:1"


def top(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["top", *map(str, arguments)])


@pytest.fixture(scope="module")
def directory(session_dir: Path) -> Path:
    directory = session_dir / "top"
    directory.mkdir()
    return directory


@pytest.fixture(scope="module")
def proxy(directory: Path) -> Iterator[Criproxy]:
    """A proxy on which the pull for a pod is held."""
    config = {
        "admin": {"socket": f"unix://{directory}/admin.sock"},
        "rules": [{"name": "hang", "match": {"methods": ["PullImage"]}, "delay": {"fixed": "1h"}}],
        "slow": {"methods": {"PullImage": "1ms"}},
    }
    with (
        EmbeddedRuntime(f"unix://{directory}/cri.sock") as runtime,
        Criproxy(directory, runtime.endpoint, config=config) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        client.RunPodSandbox(config=POD)
        pull = client.messages.PullImageRequest(image={"image": IMAGE}, sandbox_config=POD)
        call = client.raw("PullImage").future(pull)
        wait_until(lambda: "hang" in top("-c", proxy.file, "--once").stdout, "the held pull")
        yield proxy
        call.cancel()


def test_once(proxy: Criproxy) -> None:
    """--once prints a summary, and a table each of calls, methods and pods."""
    summary, calls, methods, pods = top("-c", proxy.file, "--once").stdout.split("\n\n")
    assert summary.startswith("1 call in flight, 1 slow; ")
    header, call = calls.splitlines()
    assert header.split() == ["AGE", "METHOD", "POD", "CALLER", "RULES"]
    assert call.startswith("!")
    assert f"PullImage  shop/web {IMAGE}  " in call
    assert [line.split()[1] for line in methods.splitlines()] == [
        *("METHOD", "RunPodSandbox", "PullImage")
    ]
    _, pod = pods.splitlines()
    assert "shop/web  running  " in pod
    assert pod.endswith(f"  image pull of {IMAGE}")


def test_json(proxy: Criproxy, directory: Path) -> None:
    """As JSON it is one versioned object; the pull is the pod's phase and cause."""
    found = json.loads(top("--admin", directory / "admin.sock", "--once", "-o", "json").stdout)
    assert found["version"] == 1
    (call,) = found["calls"]
    assert (call["method"], call["pod"], call["slow"]) == ("PullImage", "web", True)
    (pod,) = found["pods"]
    assert (pod["phase"]["kind"], pod["cause"]["kind"], pod["cause"]["subject"]) == (
        *("pull", "pull", IMAGE),
    )
    (sandbox,) = [each for each in found["methods"] if each["method"] == "RunPodSandbox"]
    assert (sandbox["calls"], sandbox["errors"], sandbox["in_flight"]) == (1, 0, 0)
    assert sandbox["p50_s"] > 0


def test_a_window(proxy: Criproxy) -> None:
    """With --window it is about calls that end within that time."""
    found = json.loads(top("-c", proxy.file, "--once", "--window", "1ms", "-o", "json").stdout)
    assert {each["calls"] for each in found["methods"]} == {0}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("-o", "json"), "-o json is for --once"),
        (("--interval", "0"), "--interval has to be more than 0"),
        (("--admin", "tcp://x"), "scheme 'tcp' is not supported"),
    ],
)
def test_bad_options(arguments: tuple[str, ...], expected: str) -> None:
    """A wrong option is an error that says what is right."""
    error = top(*arguments).exception
    assert isinstance(error, UsageError)
    assert expected in str(error)


def test_no_admin_socket(tmp_path: Path) -> None:
    """Where there is none, the error says how to have one."""
    file = tmp_path / "config.yaml"
    file.write_text("{}")
    error = top("-c", file).exception
    assert isinstance(error, UsageError)
    assert f"{file}: admin.socket is null" in str(error)
    error = top("--admin", tmp_path / "missing").exception
    assert isinstance(error, UnavailableError)
    assert "missing: No such file or directory; name the daemon's admin.socket" in str(error)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"version": 2}', "answers in version 2, and this criproxy reads version 1"),
        (b'{"calls": []}', "no criproxy answers there"),
        (b"[]", "no criproxy answers there"),
        (b"hello", "no criproxy answers there"),
    ],
)
def test_other_answers(short_dir: Path, body: bytes, expected: str) -> None:
    """An answer of another version, and one of another program, are told apart."""

    def application(environ: WSGIEnvironment, start: StartResponse) -> list[bytes]:
        start("200 OK", [])
        return [body]

    other = AdminSocket(Endpoint(f"{short_dir}/other.sock"), application, replaces=False)
    try:
        error = top("--admin", short_dir / "other.sock", "--once").exception
    finally:
        other.close()
    assert isinstance(error, UnavailableError)
    assert expected in str(error)


def test_without_a_terminal(proxy: Criproxy) -> None:
    """The screen is for a terminal; what is for a pipe is named."""
    error = top("-c", proxy.file).exception
    assert isinstance(error, UsageError)
    assert str(error) == "the screen needs a terminal; use --once"


def test_on_a_terminal(proxy: Criproxy) -> None:
    """On a terminal the screen shows the held pull of the running daemon, until q is pressed."""
    command = [sys.executable, "-m", "criproxy", "top", "-c", str(proxy.file), "--interval", "50ms"]
    ours, theirs = pty.openpty()
    shown = bytearray()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color"}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        try:
            while b"example.test/app:1" not in shown:
                shown += os.read(ours, 65536)
            os.write(ours, b"q")
            with contextlib.suppress(OSError):  # the terminal ends with its last process
                while os.read(ours, 65536):
                    pass
            assert process.wait(LIMIT_SECONDS) == 0
        finally:
            process.kill()
            os.close(ours)


def test_without_textual(proxy: Criproxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without textual the error says what to install; --once does without."""
    monkeypatch.setitem(sys.modules, "criproxy.top.screen", None)
    monkeypatch.setitem(sys.modules, "textual", None)
    error = top("-c", proxy.file).exception
    assert isinstance(error, UnavailableError)
    assert "install criproxy[top], or use --once" in str(error)
    assert top("-c", proxy.file, "--once").exit_code == 0
