"""The recorder of a running daemon: its failures do not affect calls."""

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from tests.daemon.test_audit import audited, code_of, of, record_of, stuck
from tests.support.audit_lines import verify
from tests.support.criproxy import Criproxy
from tests.support.process_tree import named
from tests.support.waiting import LIMIT_SECONDS, wait_until

JWT = r"eyJ[A-Za-z0-9_-]+\.eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"


def recorder_of(directory: Path) -> int:
    """The id of the process that has the audit log open."""
    log = str(directory / "audit.jsonl")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(each) == log for each in (process / "fd").iterdir()):
                return int(process.name)
        except OSError:  # it has ended, or is not ours
            continue
    raise AssertionError("no process has the audit log open")


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process, and let it go on afterwards."""
    os.kill(pid, signal.SIGSTOP)

    def is_stopped() -> bool:
        threads = Path(f"/proc/{pid}/task").glob("*/stat")
        return all(each.read_text().rpartition(")")[2].split()[0] == "T" for each in threads)

    try:
        wait_until(is_stopped, "every thread stopped")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_it_is_a_process_of_its_own(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """The audit log is open in another process than those that clients are connected to, which
    ends with the daemon."""
    with audited(short_dir, runtime.endpoint) as proxy, CriClient(proxy.endpoint) as client:
        client.Version()
        record_of(short_dir, "Version")
        recorder = recorder_of(short_dir)
        assert recorder != proxy.process.pid
        assert proxy.stop() == 0
        wait_until(lambda: not Path(f"/proc/{recorder}").exists(), "the end of the recorder")


def test_calls_do_not_wait_for_a_stopped_recorder(
    runtime: EmbeddedRuntime, short_dir: Path
) -> None:
    """While the recorder is stopped calls go on; afterwards each has its record."""
    with audited(short_dir, runtime.endpoint) as proxy, CriClient(proxy.endpoint) as client:
        client.Version()
        record_of(short_dir, "Version")
        with stopped(recorder_of(short_dir)):
            for _ in range(200):
                client.Status()
            assert of(short_dir, "Status") == []
        wait_until(lambda: len(of(short_dir, "Status")) == 200, "all records")
        assert proxy.metric("criproxy_audit_dropped_total", sink="file") == 0


def test_calls_wait_for_a_stopped_recorder_that_has_to_fsync(
    runtime: EmbeddedRuntime, short_dir: Path
) -> None:
    """Where each call has to be on the disk before the runtime gets it, it waits for a stopped
    recorder, and goes on with it."""
    sink: dict[str, Any] = {"on_full": "block", "max_wait": f"{LIMIT_SECONDS}s"}
    with (
        audited(short_dir, runtime.endpoint, file={"fsync": "always"}, sink=sink) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        client.Version()
        record_of(short_dir, "Version")
        codes: list[str] = []
        waiting = threading.Thread(target=lambda: codes.append(code_of(client.Status)))
        with stopped(recorder_of(short_dir)):
            waiting.start()
            wait_until(
                lambda: proxy.metric("criproxy_audit_waiting_calls") == 1, "a call that waits"
            )
            assert codes == []
        waiting.join()
        assert codes == ["OK"]


@pytest.mark.parametrize("on_full", ["drop", "block"])
def test_a_costly_argument(runtime: EmbeddedRuntime, short_dir: Path, on_full: str) -> None:
    """An argument that an expression would backtrack over is redacted, and others' calls go on."""
    with (
        audited(
            short_dir,
            runtime.endpoint,
            [{"level": "Request"}],
            sink={"on_full": on_full},
            more={"redact": {"values": [JWT]}},
        ) as proxy,
        CriClient(proxy.endpoint) as agent,
        CriClient(proxy.endpoint) as kubelet,
    ):
        container = agent.ListContainers().containers[0].id
        token = "eyJabc.eyJdef.ghi"
        for _ in range(5):
            agent.ExecSync(container_id=container, cmd=["echo", "eyJ" * 80_000, token])
            for _ in range(20):
                kubelet.Version()
        wait_until(lambda: len(of(short_dir, "ExecSync")) == 5, "all records")
        wait_until(lambda: len(of(short_dir, "Version")) == 100, "all records")
    for record in of(short_dir, "ExecSync"):
        assert record["requestObject"]["cmd"][2] == f"[redacted: {len(token)} bytes]"


@pytest.mark.parametrize("on_full", ["drop", "block"])
def test_shares_of_listeners(runtime: EmbeddedRuntime, short_dir: Path, on_full: str) -> None:
    """However many denied calls a read-only client makes while a sink is stuck, calls on the full
    listener neither wait nor lose their records."""
    full, agent = f"unix://{short_dir}/proxy.sock", f"unix://{short_dir}/agent.sock"
    listeners = [
        {"endpoint": full, "runtime": runtime.endpoint},
        {"endpoint": agent, "runtime": runtime.endpoint, "profile": "read-only"},
    ]
    sink = {"on_full": on_full, "max_wait": "100ms", "queue": {"records": 40}}
    with (
        audited(short_dir, runtime.endpoint, sink=sink, listeners=listeners) as proxy,
        CriClient(full, timeout=LIMIT_SECONDS) as kubelet,
        CriClient(agent, timeout=LIMIT_SECONDS) as client,
    ):
        codes: Counter[str] = Counter()

        def overflows() -> bool:
            """Make denied calls until there is no room for their records."""
            for _ in range(50):
                codes[code_of(lambda: client.StopContainer(container_id="x"))] += 1
            if on_full == "block":
                return codes["UNAVAILABLE"] > 0
            return proxy.metric("criproxy_audit_dropped_total", sink="file") > 0

        with stuck(short_dir):
            wait_until(overflows, "calls without room for their records")
            for _ in range(10):
                assert code_of(kubelet.Status) == "OK"
        wait_until(lambda: len(of(short_dir, "Status")) == 10, "the records of the full listener")
    assert set(codes) <= {"PERMISSION_DENIED", "UNAVAILABLE"}
    assert {each["listener"] for each in of(short_dir, "Status")} == {full}


@pytest.mark.parametrize(("on_full", "fsync"), [("drop", "none"), ("block", "always")])
def test_a_recorder_that_is_killed(
    runtime: EmbeddedRuntime, short_dir: Path, on_full: str, fsync: str
) -> None:
    """After kill -9 of the recorder no call fails, each has its record, the chain of hashes holds,
    and no counter goes down."""
    sink: dict[str, Any] = {"on_full": on_full, "max_wait": f"{LIMIT_SECONDS}s"}
    file = {"fsync": fsync, "chain": True}
    with (
        audited(short_dir, runtime.endpoint, file=file, sink=sink) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        proxy.event("pods listed")
        calls = written = 0
        for killed in range(1, 4):
            target = calls + 30
            while len(audit_ids(short_dir)) < target:
                client.Status()
                calls += 1
            os.kill(recorder_of(short_dir), signal.SIGKILL)
            for _ in range(30):
                client.Status()
                calls += 1
            wait_until(
                lambda killed=killed: len(proxy.events("process started")) == killed,
                "a new recorder",
            )
            wait_until(lambda calls=calls: len(audit_ids(short_dir)) == calls, "all records")
            before = written
            written = int(proxy.metric("criproxy_audit_records_total", sink="file"))
            assert written >= before
        wait_until(lambda: len(proxy.events("pods listed")) >= 4, "a listing for each recorder")
        assert proxy.metric("criproxy_audit_dropped_total", sink="file") == 0
        assert proxy.stop() == 0
    assert verify(short_dir / "audit.jsonl").broken is None


def test_a_recorder_that_cannot_start(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """A recorder whose sinks cannot be opened is started again and again, and no call fails."""
    directory = short_dir / "logs"
    directory.mkdir()
    with (
        audited(short_dir, runtime.endpoint, file={"path": str(directory / "a.jsonl")}) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        directory.rename(short_dir / "elsewhere")
        directory.touch()
        os.kill(named(proxy.process.pid, "criproxy:audit"), signal.SIGKILL)
        assert str(directory) in proxy.event("process does not start")["error"]
        client.Status()
        directory.unlink()
        proxy.event("process started")
        log = directory / "a.jsonl"
        wait_until(lambda: log.exists() and b'"Status"' in log.read_bytes(), "the record")
        assert proxy.stop() == 0


def test_trouble_of_a_sink(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """What a sink cannot write is reported in the daemon's log, and at its end the lost records."""
    audit = {"sinks": [{"journald": {"socket": str(short_dir / "journal")}, "on_full": "block"}]}
    with (
        Criproxy(short_dir, runtime.endpoint, config={"audit": audit}) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        assert code_of(partial(client.StopPodSandbox, pod_sandbox_id="none")) == "NOT_FOUND"
        assert "cannot send to the journal" in proxy.event("audit log in trouble")["trouble"]
        assert proxy.stop() == 0
        assert sum(each["records"] for each in proxy.events("audit records lost")) == 1


def audit_ids(directory: Path) -> set[str]:
    """The ids of the calls of Status that are recorded: some may be recorded twice."""
    return {each["auditID"] for each in whole_records(directory) if each.get("method") == "Status"}


def whole_records(directory: Path) -> list[dict[str, Any]]:
    """The records of a log in which there may be torn lines."""
    found = []
    for line in (directory / "audit.jsonl").read_bytes().split(b"\n"):
        with suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found
