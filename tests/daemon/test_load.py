"""Load: a thousand clients at once, too few descriptors, a full disk."""

import contextlib
import os
import resource
import selectors
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from h2.connection import H2Connection
from h2.events import StreamEnded

from criproxy.client import CriClient
from criproxy.embedded.process import RuntimeProcess
from criproxy.observe.logs.line_writer import LARGEST_QUEUE
from tests.support.criproxy import Criproxy
from tests.support.mounts import unmount_below
from tests.support.raw_sockets import dial
from tests.support.waiting import LIMIT_SECONDS, wait_until

CLIENTS = 1000
DESCRIPTORS = 4096

BATCH = 100
BATCHES = LARGEST_QUEUE // 1024 // BATCH
"""Calls whose lines, of more than 1 KiB each, are more than the log keeps in memory."""

FEW_DESCRIPTORS = 160
SERVED_WITH_FEW = 48
"""Clients that 160 descriptors are enough for: 64 are the daemon's, two are a client's."""


@pytest.fixture
def runtime(short_dir: Path) -> Iterator[RuntimeProcess]:
    """A runtime on an interpreter of its own."""
    with RuntimeProcess(f"unix://{short_dir}/cri.sock", latency="none") as runtime:
        yield runtime


@pytest.fixture
def _many_descriptors() -> Iterator[None]:
    limits = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < DESCRIPTORS:
        pytest.skip(f"{CLIENTS} clients need a hard limit of {DESCRIPTORS} file descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, DESCRIPTORS), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.usefixtures("_many_descriptors")
def test_thousand_clients_at_once(runtime: RuntimeProcess, short_dir: Path) -> None:
    """Started with few file descriptors it raises the limit, and serves 1,000 clients at once."""
    launcher = ["prlimit", "--nofile=256:"]
    with (
        Criproxy(short_dir, runtime.endpoint, launcher=launcher) as proxy,
        contextlib.ExitStack() as stack,
    ):
        _await_answers(_ask(proxy.path, CLIENTS, stack))
        assert proxy.metric("criproxy_connections") == CLIENTS
        wait_until(lambda: proxy.counted().total() == CLIENTS, "every call counted")
        assert proxy.counted() == {("runtime.v1.RuntimeService", "Version", "OK"): CLIENTS}
        assert proxy.events("not accepting for now") == []


def test_clients_beyond_the_limit_wait(runtime: RuntimeProcess, short_dir: Path) -> None:
    """With too few descriptors for all clients some wait, the log says so, and all are served."""
    launcher = ["prlimit", f"--nofile={FEW_DESCRIPTORS}:{FEW_DESCRIPTORS}"]
    with (
        Criproxy(short_dir, runtime.endpoint, launcher=launcher) as proxy,
        contextlib.ExitStack() as stack,
    ):
        served = _ask(proxy.path, SERVED_WITH_FEW, stack)
        waiting = _ask(proxy.path, SERVED_WITH_FEW, stack)
        _await_answers(served)
        proxy.event("not accepting for now", listener=proxy.endpoint)
        assert proxy.metric("criproxy_connections") == SERVED_WITH_FEW
        for asker in served:
            asker.socket.close()
        _await_answers(waiting)


@pytest.fixture
def small_disk(short_dir: Path) -> Iterator[Path]:
    """A file system with room for 64 KiB."""
    path = short_dir / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a full disk needs the right to mount a tmpfs")
    yield path
    unmount_below(path)


def test_full_disk_under_the_log(
    runtime: RuntimeProcess, short_dir: Path, small_disk: Path
) -> None:
    """With the log's disk full calls are answered; lost lines are counted and reported once."""
    log = small_disk / "criproxy.log"
    config = {"log": {"file": str(log)}}
    with (
        Criproxy(short_dir, runtime.endpoint, config=config) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        proxy.event("metrics")
        _fill(small_disk / "filler")
        missing = client.messages.ContainerStatusRequest(container_id="x" * 1024)
        for _ in range(BATCHES):
            calls = [client.raw("ContainerStatus").future(missing) for _ in range(BATCH)]
            assert {call.code().name for call in calls} == {"NOT_FOUND"}
        wait_until(lambda: proxy.counted().total() == BATCHES * BATCH, "every call counted")
        lost = int(proxy.metric("criproxy_log_lines_dropped_total"))
        assert lost > 0
        processes = 2  # the supervisor and the worker have a writer each
        assert 1 <= proxy.process.stderr.count("cannot write the log") <= processes
        assert "No space left on device" in proxy.process.stderr
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        wait_until(
            lambda: sum(line["count"] for line in proxy.events("log lines lost")) == lost,
            "report of lost lines",
        )
        assert client.Version().runtime_name
        proxy.event("call", method="Version")
        assert proxy.stop() == 0
    assert len(proxy.calls()) == BATCHES * BATCH - lost + 1


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))
    assert shutil.disk_usage(path).free == 0


class _Asker:
    """A client that has asked for the Version, on a connection of its own."""

    def __init__(self, path: Path) -> None:
        self.socket = dial(path)
        self._h2 = H2Connection()
        self._h2.initiate_connection()
        self._h2.send_headers(1, _REQUEST)
        self._h2.send_data(1, bytes(5), end_stream=True)
        self.socket.sendall(self._h2.data_to_send())

    def has_answer(self) -> bool:
        """Read what has arrived; return whether the answer is complete."""
        data = self.socket.recv(1 << 16)
        assert data, "closed instead of answered"
        return any(isinstance(event, StreamEnded) for event in self._h2.receive_data(data))


_REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/runtime.v1.RuntimeService/Version"),
    (":authority", "localhost"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


def _ask(path: Path, count: int, stack: contextlib.ExitStack) -> list[_Asker]:
    askers = [_Asker(path) for _ in range(count)]
    for asker in askers:
        stack.enter_context(asker.socket)
    return askers


def _await_answers(askers: list[_Asker]) -> None:
    with selectors.DefaultSelector() as selector:
        for asker in askers:
            selector.register(asker.socket, selectors.EVENT_READ, asker)
        while selector.get_map():
            ready = selector.select(LIMIT_SECONDS)
            assert ready, f"{len(selector.get_map())} clients got no answer"
            for key, _ in ready:
                if key.data.has_answer():
                    selector.unregister(key.fileobj)
