"""Start, stop, and the socket in between."""

import os
import signal
import socket
import stat
import sys
from pathlib import Path

import grpc
import pytest

from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from tests.support.cri_peers import CriPeer, execute, start_call
from tests.support.criproxy import Criproxy
from tests.support.grpc_peers import channel
from tests.support.process import Process
from tests.support.process_tree import named
from tests.support.waiting import LIMIT_SECONDS, wait_until


def test_flags_alone_are_enough(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """Flags alone suffice: without a file it listens, answers, and logs its metrics' address."""
    endpoint = f"unix://{short_dir}/new/dir/proxy.sock"
    options = ["--listen", endpoint, "--runtime-endpoint", runtime.endpoint]
    options += ["--metrics-address", "127.0.0.1:0", "--log-format", "json", "--log-level", "debug"]
    command = [sys.executable, "-m", "criproxy", "run", *options]
    with Process(command, output=short_dir / "proxy") as process:
        wait_until(lambda: '"ready"' in process.stderr, "ready", report=lambda: process.stderr)
        with CriClient(endpoint, timeout=LIMIT_SECONDS) as client:
            assert client.Version().runtime_name
        assert process.stop() == 0
        assert '"method":"Version"' in process.stderr
        assert process.stdout == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stops_when_told(proxy: Criproxy, number: signal.Signals) -> None:
    """SIGTERM and SIGINT end it with status 0 and without its socket, a client connected or not."""
    with CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client:
        client.Version()
        proxy.process.signal(number)
        assert proxy.process.wait() == 0
    assert not proxy.path.exists()
    assert [call["method"] for call in proxy.calls()] == ["Version"]
    assert "Traceback" not in proxy.process.stderr


def test_stale_socket_is_replaced(proxy: Criproxy) -> None:
    """A socket that a killed process left behind does not keep the next one from starting."""
    proxy.kill()
    assert proxy.path.is_socket()
    proxy.start()
    with CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client:
        assert client.Version().runtime_name


def test_live_socket_is_never_stolen(
    runtime: EmbeddedRuntime, proxy: Criproxy, short_dir: Path
) -> None:
    """A second daemon at the same socket ends with 1 and one line; the first serves on."""
    config = {"listeners": [{"endpoint": proxy.endpoint, "runtime": runtime.endpoint}]}
    second = Criproxy(short_dir, config=config, name="second")
    status, said = second.fails()
    assert status == 1
    assert _last_line(said).startswith(
        f"criproxy: cannot listen at {proxy.endpoint}: another process"
    )
    with CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client:
        assert client.Version().runtime_name


def test_other_file_is_never_replaced(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """A file in the socket's place that is no socket is left alone, with status 2 and one line."""
    proxy = Criproxy(short_dir, runtime.endpoint)
    proxy.path.write_text("precious")
    status, said = proxy.fails()
    assert status == 2
    assert "not a socket" in _last_line(said)
    assert proxy.path.read_text() == "precious"


def test_no_permission_is_one_line(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """A directory that may not be written ends it with 1 and a line that names the socket."""
    directory = short_dir / "others"
    directory.mkdir(mode=0o555)
    launcher = []
    if os.geteuid() == 0:
        os.chown(directory, 65534, 65534)
        launcher = ["setpriv", "--bounding-set", "-dac_override"]
    endpoint = f"unix://{directory}/proxy.sock"
    config = {"listeners": [{"endpoint": endpoint, "runtime": runtime.endpoint}]}
    status, said = Criproxy(short_dir, config=config, launcher=launcher).fails()
    assert status == 1
    assert _last_line(said).startswith(f"criproxy: cannot listen at {endpoint}: Permission denied")


def test_taken_metrics_port_is_one_line(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """A metrics port that another process has ends it with 1, and no socket is left behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        proxy = Criproxy(short_dir, runtime.endpoint, config={"metrics": {"address": address}})
        status, said = proxy.fails()
    assert status == 1
    assert _last_line(said).startswith(
        f"criproxy: cannot serve metrics at {address}: Address already"
    )
    assert not proxy.path.exists()


def test_owner_and_mode_are_the_runtimes(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """The users that may connect to the runtime's socket, and no others, may to the proxy's."""
    runtime_path = short_dir / "cri.sock"
    runtime_path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(runtime_path, 1234, 5678)
    with Criproxy(short_dir, runtime.endpoint) as proxy:
        expected, got = runtime_path.stat(), proxy.path.stat()
        assert stat.S_IMODE(got.st_mode) == 0o640
        assert (got.st_uid, got.st_gid) == (expected.st_uid, expected.st_gid)


def test_configured_mode_wins(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """A mode in the file is the socket's, whatever the runtime's socket has."""
    endpoint = f"unix://{short_dir}/proxy.sock"
    listener = {"endpoint": endpoint, "runtime": runtime.endpoint, "mode": "0606"}
    with Criproxy(short_dir, config={"listeners": [listener]}) as proxy:
        assert stat.S_IMODE(proxy.path.stat().st_mode) == 0o606


def test_socket_of_another_is_left_on_exit(proxy: Criproxy) -> None:
    """A socket that has taken its place meanwhile is not removed on exit."""
    proxy.path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(proxy.path))
        assert proxy.stop() == 0
        assert proxy.path.is_socket()


def test_call_in_flight_ends_before_the_daemon(short_dir: Path) -> None:
    """A call that ends within the grace is answered after SIGTERM, and is in the log."""
    limits = {"drain_timeout": f"{LIMIT_SECONDS:g}s"}
    with (
        CriPeer(short_dir / "cri.sock") as runtime,
        Criproxy(short_dir, f"unix://{runtime.path}", config={"limits": limits}) as proxy,
        channel(proxy.path) as one,
    ):
        runtime.gate.clear()
        call = start_call(one, execute("a"))
        wait_until(lambda: '"ExecSync"' in proxy.get("/calls")[1], "call in flight")
        proxy.process.signal(signal.SIGTERM)
        wait_until(lambda: not proxy.path.exists(), "end of listening")
        assert "stopping" in proxy.get("/readyz")[1]
        runtime.gate.set()
        assert call.outcome().code is grpc.StatusCode.OK
        assert proxy.process.wait() == 0
        assert [(call["method"], call["code"]) for call in proxy.calls()] == [("ExecSync", "OK")]


def test_watchdog(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """systemd's watchdog is fed while the event loops of all workers turn, and not otherwise."""
    env = {"NOTIFY_SOCKET": f"@{short_dir}/notify", "WATCHDOG_USEC": "200000"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{short_dir}/notify")
        systemd.settimeout(LIMIT_SECONDS)

        def wait_for(message: bytes) -> None:
            wait_until(lambda: systemd.recv(100) == message, message.decode())

        def is_quiet() -> bool:
            try:
                systemd.recv(100)
            except TimeoutError:
                return True
            return False

        with Criproxy(short_dir, runtime.endpoint, env=env) as proxy:
            wait_for(b"WATCHDOG=1")
            worker = named(proxy.process.pid, "criproxy:full")
            os.kill(worker, signal.SIGSTOP)
            try:
                systemd.settimeout(2.0)  # 20 times the interval
                wait_until(is_quiet, "silence")
            finally:
                os.kill(worker, signal.SIGCONT)
            systemd.settimeout(LIMIT_SECONDS)
            wait_for(b"WATCHDOG=1")
            proxy.process.signal(signal.SIGTERM)
            wait_for(b"STOPPING=1")


def _last_line(text: str) -> str:
    """The last line; before it are the log's, which are JSON."""
    *log, last = text.splitlines()
    assert all(line.startswith("{") for line in log), text
    return last
