"""Upgrade in place, socket activation, and reloads of all settings: no call is lost."""

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import yaml

from criproxy.client import CriClient
from criproxy.daemon.supervisor import upgrade as module
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.errors import UnavailableError
from criproxy.peers.credentials import peer_pid
from tests.support.cri_peers import CriPeer, execute, start_call
from tests.support.criproxy import Criproxy
from tests.support.grpc_peers import channel
from tests.support.process_tree import is_alive, named
from tests.support.waiting import LIMIT_SECONDS, wait_until


@contextmanager
def calling(endpoint: str) -> Iterator[list[str]]:
    """Call Version in a loop; the list has the outcome of each call, at the end at the latest."""
    outcomes: list[str] = []
    stop = threading.Event()

    def run() -> None:
        with CriClient(endpoint) as client:
            version = client.raw("Version")
            while not stop.is_set():
                try:
                    version(client.messages.VersionRequest(), timeout=LIMIT_SECONDS)
                    outcomes.append("OK")
                except grpc.RpcError as error:
                    outcomes.append(f"{error.code().name}: {error.details()}")

    threads = [threading.Thread(target=run) for _ in range(3)]
    for each in threads:
        each.start()
    try:
        wait_until(lambda: len(outcomes) > 20, "calls")
        yield outcomes
    finally:
        stop.set()
        for each in threads:
            each.join()


def listening_pid(path: Path) -> int:
    """The process that listens at a socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        return peer_pid(client)


def ended(pid: int) -> None:
    """Wait for the end of a process."""
    wait_until(lambda: not is_alive(pid), f"end of process {pid}")


def more(outcomes: list[str], count: int = 20) -> None:
    """Wait for so many more outcomes."""
    enough = len(outcomes) + count
    wait_until(lambda: len(outcomes) >= enough, "more calls")


def test_upgrade(proxy: Criproxy) -> None:
    """SIGUSR2 has a new supervisor serve at the same socket, without a failed call."""
    old = proxy.process.pid
    with calling(proxy.endpoint) as outcomes:
        proxy.process.signal(signal.SIGUSR2)
        assert proxy.process.wait() == 0
        new = listening_pid(proxy.path)
        more(outcomes)
    assert set(outcomes) == {"OK"}
    assert new != old
    assert is_alive(new)
    assert proxy.event("upgraded")["successor"] == new
    assert "Traceback" not in proxy.process.stderr


def test_upgrades_one_after_the_other(proxy: Criproxy) -> None:
    """A supervisor that has taken over can be replaced as well, and still be stopped."""
    with calling(proxy.endpoint) as outcomes:
        for _ in range(3):
            pid = listening_pid(proxy.path)
            os.kill(pid, signal.SIGUSR2)
            ended(pid)
            more(outcomes)
    assert set(outcomes) == {"OK"}
    pid = listening_pid(proxy.path)
    os.kill(pid, signal.SIGTERM)
    ended(pid)
    assert not proxy.path.exists()


def test_a_call_in_flight_outlives_an_upgrade(short_dir: Path) -> None:
    """A call that is in flight ends at the worker that it began at."""
    with (
        EmbeddedRuntime(f"unix://{short_dir}/cri.sock", latency="3s") as runtime,
        Criproxy(short_dir, runtime.endpoint) as proxy,
        CriClient(proxy.endpoint) as client,
    ):
        answer = client.raw("Status").future(client.messages.StatusRequest())
        wait_until(lambda: '"Status"' in proxy.get("/calls")[1], "call in flight")
        proxy.process.signal(signal.SIGUSR2)
        assert proxy.process.wait() == 0
        assert answer.result().status.conditions


def test_a_version_that_does_not_start(proxy: Criproxy) -> None:
    """If the new version ends before it serves, the old one goes on and says why."""
    good = proxy.file.read_text()
    with calling(proxy.endpoint) as outcomes:
        # Read by the new supervisor alone: this one's watch reports it, and keeps what it has.
        proxy.file.write_text("listeners: 3\n")
        proxy.process.signal(signal.SIGUSR2)
        failed = proxy.event("upgrade failed")
        more(outcomes)
    assert "exit status 2" in failed["error"]
    assert set(outcomes) == {"OK"}
    assert listening_pid(proxy.path) == proxy.process.pid
    proxy.file.write_text(good)
    proxy.process.signal(signal.SIGUSR2)
    assert proxy.process.wait() == 0
    assert listening_pid(proxy.path) != proxy.process.pid


def test_the_spawner_dies(proxy: Criproxy) -> None:
    """A supervisor that cannot start workers any more has another one take over."""

    with calling(proxy.endpoint) as outcomes:
        os.kill(named(proxy.process.pid, "criproxy:spawn"), signal.SIGKILL)
        assert proxy.process.wait() == 0
        more(outcomes)
    assert set(outcomes) == {"OK"}


@pytest.fixture
def activated(runtime: EmbeddedRuntime, short_dir: Path) -> Iterator[Criproxy]:
    """A proxy to which the socket that it listens at is passed, as systemd does."""
    path = short_dir / "proxy.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        program = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3);"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1');"
            "os.execv(sys.argv[2], sys.argv[2:])"
        )
        launcher = [sys.executable, "-c", program, str(listening.fileno())]
        descriptors = [listening.fileno()]
        proxy = Criproxy(short_dir, runtime.endpoint, launcher=launcher, descriptors=descriptors)
        with proxy:
            yield proxy


def test_socket_activation(activated: Criproxy) -> None:
    """The passed socket is served, and stays when the daemon ends: clients wait for the next."""
    with CriClient(activated.endpoint) as client:
        assert client.Version().runtime_name
        assert activated.stop() == 0
        assert activated.path.is_socket()
        waiting = client.raw("Version").future(
            client.messages.VersionRequest(), wait_for_ready=True
        )
        assert not waiting.done()
        activated.start()
        assert waiting.result(timeout=LIMIT_SECONDS).runtime_name


def test_upgrade_with_socket_activation(activated: Criproxy) -> None:
    """The successor has the passed socket, too, and leaves it in place in its turn."""
    with calling(activated.endpoint) as outcomes:
        activated.process.signal(signal.SIGUSR2)
        assert activated.process.wait() == 0
        more(outcomes)
    assert set(outcomes) == {"OK"}
    pid = listening_pid(activated.path)
    os.kill(pid, signal.SIGTERM)
    ended(pid)
    assert activated.path.is_socket()


def test_a_passed_socket_of_no_listener(activated: Criproxy, short_dir: Path) -> None:
    """A socket of systemd at which no listener is configured is reported."""
    other = f"unix://{short_dir}/other.sock"
    content = yaml.safe_load(activated.file.read_text())
    content["listeners"][0]["endpoint"] = other
    assert activated.stop() == 0
    activated.file.write_text(yaml.safe_dump(content))
    activated.start()
    unused = activated.event("socket passed by systemd is not used")
    assert unused["path"] == str(activated.path)
    with CriClient(other) as client:
        assert client.Version().runtime_name


def move_pages(proxy: Criproxy) -> str:
    """Give the pages another address in the configuration of a daemon that runs; return it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    content = yaml.safe_load(proxy.file.read_text())
    content["metrics"]["address"] = address
    proxy.file.write_text(yaml.safe_dump(content))
    return address


def test_upgrade_to_another_address(proxy: Criproxy) -> None:
    """A successor whose configuration has another address serves the pages there alone."""
    before = proxy.event("metrics")["address"]
    address = move_pages(proxy)
    proxy.process.signal(signal.SIGUSR2)
    assert proxy.process.wait() == 0
    assert proxy.get("/healthz", address)[0] == 200
    with pytest.raises(ConnectionRefusedError):
        proxy.get("/healthz", before)


def test_upgrade_beside_a_reload(proxy: Criproxy) -> None:
    """A reload that is asked for during an upgrade does not take what the successor needs."""
    address = move_pages(proxy)
    for number in (signal.SIGUSR2, signal.SIGHUP, signal.SIGHUP):
        proxy.process.signal(number)
    assert proxy.process.wait() == 0
    assert proxy.get("/healthz", address)[0] == 200
    assert not proxy.events("reload failed")
    assert not proxy.events("upgrade failed")


@pytest.mark.parametrize("heeds", [True, False])
def test_successor_that_is_late(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch, heeds: bool
) -> None:
    """A new supervisor that is not ready in time is ended, killed if it must be, and waited for."""
    file = short_dir / "pid"
    script = "import os, pathlib, signal, sys, time\n"
    script += "" if heeds else "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    script += "pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\ntime.sleep(600)\n"
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-c", script, str(file)])
    monkeypatch.setattr(module, "_END", LIMIT_SECONDS if heeds else 0.1)

    async def is_late(_: int) -> bytes:
        await asyncio.to_thread(wait_until, lambda: file.exists() and file.read_text(), "its pid")
        raise TimeoutError

    monkeypatch.setattr(module, "_read", is_late)
    with pytest.raises(UnavailableError, match="the new version is not ready within 30 s"):
        asyncio.run(module.upgrade({}, {}, None, 30.0))
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)


def test_every_key_is_reloaded(runtime: EmbeddedRuntime, proxy: Criproxy, short_dir: Path) -> None:
    """A reload applies listeners, profiles, limits, the log and the address of the pages."""
    before = proxy.event("metrics")["address"]
    second = {
        "endpoint": f"unix://{short_dir}/second.sock",
        "runtime": runtime.endpoint,
        "profile": "images-only",
        "mode": "0600",
    }
    with calling(proxy.endpoint) as outcomes:
        proxy.reload(
            listeners=[{"endpoint": proxy.endpoint, "runtime": runtime.endpoint}, second],
            metrics={"address": "127.0.0.2:0"},
            limits={"streams": 100},
        )
        proxy.event("configuration loaded")
        proxy.event("workers of before have ended")
        more(outcomes)
    assert set(outcomes) == {"OK"}
    with CriClient(second["endpoint"]) as client:
        assert client.call("ListImages") is not None
        with pytest.raises(grpc.RpcError) as error:
            client.call("ListPodSandbox")
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
    addresses = [line["address"] for line in proxy.events("metrics")]
    assert addresses[0] == before
    assert addresses[1].startswith("127.0.0.2:")
    assert proxy.get("/healthz", addresses[1])[0] == 200
    proxy.reload(listeners=[{"endpoint": proxy.endpoint, "runtime": runtime.endpoint}])
    wait_until(lambda: not (short_dir / "second.sock").exists(), "end of the second listener")
    with CriClient(proxy.endpoint) as client:
        assert client.Version().runtime_name


def test_pages_while_workers_drain(short_dir: Path) -> None:
    """While workers of before drain, their calls are shown and their counters stay in the sum."""
    with (
        CriPeer(short_dir / "cri.sock") as runtime,
        Criproxy(short_dir, f"unix://{runtime.path}") as proxy,
        channel(proxy.path) as one,
    ):
        assert start_call(one, execute("before")).outcome().code is grpc.StatusCode.OK
        runtime.gate.clear()
        call = start_call(one, execute("in flight"))
        wait_until(lambda: '"ExecSync"' in proxy.get("/calls")[1], "call in flight")
        proxy.reload(limits={"streams": 100, "drain_timeout": f"{LIMIT_SECONDS:g}s"})
        proxy.event("configuration loaded")
        assert proxy.metric("criproxy_calls_total", method="ExecSync") == 1
        assert proxy.metric("criproxy_calls_in_flight", method="ExecSync") == 1
        assert '"ExecSync"' in proxy.get("/calls")[1]
        runtime.gate.set()
        assert call.outcome().code is grpc.StatusCode.OK
        assert proxy.event("workers of before have ended")["calls_finished"] == 1
        assert proxy.metric("criproxy_calls_total", method="ExecSync") == 2


def test_a_reload_is_all_or_nothing(
    runtime: EmbeddedRuntime, proxy: Criproxy, short_dir: Path
) -> None:
    """A listener that cannot be opened leaves everything as it was, the others too."""
    taken = short_dir / "taken.sock"
    taken.write_text("precious")
    listeners = [
        {"endpoint": proxy.endpoint, "runtime": runtime.endpoint, "profile": "images-only"},
        {"endpoint": f"unix://{short_dir}/new.sock", "runtime": runtime.endpoint},
        {"endpoint": f"unix://{taken}", "runtime": runtime.endpoint},
    ]
    with calling(proxy.endpoint) as outcomes:
        proxy.reload(listeners=listeners)
        failed = proxy.event("reload failed")
        more(outcomes)
    assert "not a socket" in failed["error"]
    assert set(outcomes) == {"OK"}
    assert not (short_dir / "new.sock").exists()
    assert proxy.metric("criproxy_config_reload_success") == 0


def test_replacing_another_criproxy(
    runtime: EmbeddedRuntime, proxy: Criproxy, short_dir: Path
) -> None:
    """With --replace a second daemon takes over the path of a first, which drains and ends."""
    address = proxy.event("metrics")["address"]
    config = {
        "listeners": [{"endpoint": proxy.endpoint, "runtime": runtime.endpoint}],
        "metrics": {"address": address},
    }
    second = Criproxy(short_dir, config=config, name="second", options=["--replace"])
    with calling(proxy.endpoint) as outcomes, second:
        assert proxy.process.wait() == 0
        more(outcomes)
        assert listening_pid(proxy.path) == second.process.pid
        assert second.get("/healthz")[0] == 200
        assert set(outcomes) == {"OK"}


def test_replacing_something_else(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """Only a criproxy is replaced: a runtime's socket is not taken over."""
    config = {"listeners": [{"endpoint": runtime.endpoint, "runtime": runtime.endpoint + "x"}]}
    second = Criproxy(short_dir, config=config, options=["--replace"])
    status, said = second.fails()
    assert status == 1
    assert "another process listens there" in said


def test_signals_before_a_successor_serves(proxy: Criproxy) -> None:
    """A successor is known as the one that listens once it serves: no signal reaches it before."""

    def is_replaced(pid: int) -> bool:
        if listening_pid(proxy.path) != pid:
            return True
        os.kill(pid, signal.SIGUSR2)
        return False

    with calling(proxy.endpoint) as outcomes:
        for _ in range(3):
            pid = listening_pid(proxy.path)
            # In turns with a pause: each look is a client, and they would keep out the others.
            wait_until(lambda pid=pid: is_replaced(pid), "another supervisor")
            ended(pid)
        more(outcomes)
    assert set(outcomes) == {"OK"}
