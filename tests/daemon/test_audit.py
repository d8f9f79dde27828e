"""The audit log of a running daemon: its callers and fields, and that no call is missing."""

import fcntl
import gzip
import json
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.embedded.kubelet import Kubelet
from tests.support.criproxy import Criproxy
from tests.support.grpc_peers import code_of
from tests.support.program import program
from tests.support.waiting import LIMIT_SECONDS, wait_until

Record = dict[str, Any]

PYTHON = str(Path(sys.executable).resolve())
AS_KUBELET = {"executable": [PYTHON]}
"""The configuration's ``kubelet`` under which this process is it."""


def audited(
    directory: Path,
    runtime: str,
    policy: list[dict[str, Any]] | None = None,
    *,
    file: dict[str, Any] | None = None,
    sink: dict[str, Any] | None = None,
    more: dict[str, Any] | None = None,
    **config: Any,
) -> Criproxy:
    """A proxy that records in ``audit.jsonl``; ``more`` goes into the section ``audit``."""
    path = {"path": str(directory / "audit.jsonl")}
    audit: dict[str, Any] = {"sinks": [{"file": path | (file or {})} | (sink or {})]}
    if policy is not None:
        audit["policy"] = policy
    return Criproxy(directory, runtime, config={"audit": audit | (more or {}), **config})


def records(directory: Path) -> list[Record]:
    """All that is recorded so far, in whole lines."""
    text = (directory / "audit.jsonl").read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def of(directory: Path, method: str, stage: str = "ResponseComplete") -> list[Record]:
    """The records of a method's calls at a stage."""
    return [
        each
        for each in records(directory)
        if each.get("method") == method and each.get("stage") == stage
    ]


def record_of(directory: Path, method: str, stage: str = "ResponseComplete") -> Record:
    """Wait for such a record, and return the first."""
    found = wait_until(
        lambda: of(directory, method, stage),
        f"record of {method} at {stage}",
        report=lambda: (directory / "audit.jsonl").read_text(),
    )
    return found[0]


def dropped(directory: Path) -> int:
    """How many records are said to be missing."""
    return sum(each["dropped"] for each in records(directory) if each["kind"] == "Dropped")


@contextmanager
def stuck(directory: Path) -> Iterator[None]:
    """Keep the sink from writing, as a hanging disk does: another process has the file's lock."""
    with (directory / "audit.jsonl").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize("level", ["None", "Metadata", "Request", "RequestResponse"])
def test_levels(runtime: EmbeddedRuntime, short_dir: Path, level: str) -> None:
    """A record has the request from Request on, the response at RequestResponse, and there is none
    at None."""
    policy = [{"level": level, "methods": ["ExecSync"]}]
    with (
        audited(short_dir, runtime.endpoint, policy) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        container = client.ListContainers().containers[0].id
        client.ExecSync(container_id=container, cmd=["echo", "hi"])
        assert proxy.stop() == 0
    found = records(short_dir)
    if level == "None":
        assert not found
        return
    (record,) = found
    assert (record["level"], record["method"], record["code"]) == (level, "ExecSync", "OK")
    assert record["listener"] == proxy.endpoint
    assert record["caller"]["pid"] == os.getpid()
    assert record["container"]["id"] == container
    if level == "Metadata":
        assert "requestObject" not in record
    else:
        assert record["requestObject"]["cmd"] == ["echo", "hi"]
    assert ("responseObject" in record) == (level == "RequestResponse")


def test_the_kubelet_and_others(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """By default what the kubelet reads is not recorded, and what anybody else does is, with the
    request."""
    code = (
        "import sys\nfrom criproxy.client import CriClient\n"
        "with CriClient(sys.argv[1], timeout=120) as client:\n    client.ListContainers()\n"
    )
    agent = program(short_dir / "agent", code, f"unix://{short_dir}/proxy.sock")
    with (
        audited(short_dir, runtime.endpoint, kubelet=AS_KUBELET) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        client.ListPodSandbox()
        container = client.ListContainers().containers[0].id
        client.ExecSync(container_id=container, cmd=["false"])
        client.StopContainer(container_id=container)
        agent.start()
        assert agent.wait() == 0, agent.stderr
        assert proxy.stop() == 0
    told = [
        (each["caller"]["executable"], each["caller"]["kubelet"], each["method"], each["level"])
        for each in records(short_dir)
    ]
    assert told == [
        (PYTHON, True, "ExecSync", "Request"),
        (PYTHON, True, "StopContainer", "Metadata"),
        (str(short_dir / "agent"), False, "ListContainers", "Request"),
    ]


@pytest.mark.parametrize("version", ["v1", "v1alpha2"])
@pytest.mark.parametrize("durable", [False, True], ids=["drop", "block"])
def test_exec_probes(
    runtime: EmbeddedRuntime, short_dir: Path, version: str, durable: bool
) -> None:
    """By default only those of a kubelet's probes are recorded that failed; kubectl exec is. So it
    is where records are waited for, and where calls have a record as soon as they begin."""
    sink = {"on_full": "block"} if durable else {}
    file = {"fsync": "always"} if durable else {}
    options = {"sink": sink, "file": file, "more": {"received_after": "1ms"}}
    with (
        audited(short_dir, runtime.endpoint, **options, kubelet=AS_KUBELET) as proxy,
        CriClient(proxy.endpoint, api_version=version, timeout=LIMIT_SECONDS) as client,
    ):
        container = client.ListContainers().containers[0].id
        for _ in range(10):
            client.ExecSync(container_id=container, cmd=["true"], timeout=60)
        client.ExecSync(container_id=container, cmd=["sleep", "1"])
        client.ExecSync(container_id=container, cmd=["false"])
        assert code_of(lambda: client.ExecSync(container_id=container, cmd=["no"])) == "UNKNOWN"
        client.Exec(container_id=container, cmd=["true"], stdout=True)
        assert proxy.stop() == 0
    found = of(short_dir, "ExecSync")
    assert [(each["code"], each.get("exitCode")) for each in found] == [
        ("OK", 1),
        ("UNKNOWN", None),
    ]
    assert not of(short_dir, "ExecSync", "RequestReceived")
    (exec_,) = of(short_dir, "Exec")
    assert exec_["requestObject"]["cmd"] == ["true"]
    assert of(short_dir, "Exec", "RequestReceived") or not durable


@pytest.mark.parametrize(("probe", "recorded"), [("true", False), ("false", True)])
def test_probes_of_a_kubelet(
    runtime: EmbeddedRuntime, short_dir: Path, probe: str, recorded: bool
) -> None:
    """Of pods that a kubelet runs and probes, the audit log has their life, and the probes that
    failed."""
    stop, probes = threading.Event(), 0

    def on_call(method: str, *_: object) -> None:
        nonlocal probes
        probes += method == "ExecSync"
        if probes == 2:
            stop.set()

    with audited(short_dir, runtime.endpoint, kubelet=AS_KUBELET) as proxy:
        with Kubelet(proxy.endpoint, on_call=on_call, probe=[probe], pods=1) as kubelet:
            kubelet.run(stop, LIMIT_SECONDS)
        assert proxy.stop() == 0
    assert probes >= 2
    assert len(of(short_dir, "ExecSync")) == (probes if recorded else 0)
    assert all(each["exitCode"] == 1 for each in of(short_dir, "ExecSync"))
    assert len(of(short_dir, "StartContainer")) >= 2


@pytest.mark.parametrize("version", ["v1", "v1alpha2"])
def test_names_of_before(runtime: EmbeddedRuntime, short_dir: Path, version: str) -> None:
    """A call that has only an id is recorded with the names of a pod from before the start."""
    with CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as direct:
        container = direct.ListContainers().containers[0]
        pods = {pod.id: pod.metadata for pod in direct.ListPodSandbox().items}
    with (
        audited(short_dir, runtime.endpoint) as proxy,
        CriClient(proxy.endpoint, api_version=version, timeout=LIMIT_SECONDS) as client,
    ):
        proxy.event("pods listed")
        client.ContainerStatus(container_id=container.id)
        assert proxy.stop() == 0
    (record,) = records(short_dir)
    pod = pods[container.pod_sandbox_id]
    assert record["pod"] == {
        "id": container.pod_sandbox_id,
        "namespace": pod.namespace,
        "name": pod.name,
        "uid": pod.uid,
    }
    assert record["container"]["id"] == container.id
    assert record["container"]["name"] == container.metadata.name
    assert record["criVersion"] == version


def test_names_from_calls_that_are_not_recorded(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """Pods are known by name, though the calls that made them are not recorded."""
    policy: list[dict[str, Any]] = [
        {"level": "None", "methods": ["RunPodSandbox"]},
        {"level": "Metadata"},
    ]
    config = {"metadata": {"name": "web", "uid": "uid-web", "namespace": "shop"}}
    with (
        audited(short_dir, runtime.endpoint, policy) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        pod = client.RunPodSandbox(config=config).pod_sandbox_id
        client.StopPodSandbox(pod_sandbox_id=pod)
        assert proxy.stop() == 0
    (record,) = records(short_dir)
    assert record["method"] == "StopPodSandbox"
    assert record["pod"] == {"id": pod, "namespace": "shop", "name": "web", "uid": "uid-web"}


def test_a_call_that_runs_for_long(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """It has a record while it runs, once, and one of the same id when it ends."""
    with (
        audited(short_dir, runtime.endpoint, more={"received_after": "100ms"}) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        events = client.GetContainerEvents()
        began = record_of(short_dir, "GetContainerEvents", "RequestReceived")
        assert "code" not in began
        slow = proxy.metric("criproxy_oldest_call_age_seconds", method="GetContainerEvents")
        wait_until(  # the calls are gone through again
            lambda: (
                proxy.metric("criproxy_oldest_call_age_seconds", method="GetContainerEvents")
                > slow + 1.5
            ),
            "older call",
        )
        events.cancel()
        done = record_of(short_dir, "GetContainerEvents")
        assert (done["code"], done["auditID"]) == ("CANCELLED", began["auditID"])
        client.Version()
        other = record_of(short_dir, "Version")
        assert other["auditID"] != began["auditID"]
        if other["durationSeconds"] <= 0.1:
            assert not of(short_dir, "Version", "RequestReceived")
        assert len(of(short_dir, "GetContainerEvents", "RequestReceived")) == 1


def test_calls_that_are_cut_off(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """Calls that are in flight when the daemon is stopped are in the log when it has ended."""
    limits = {"drain_timeout": "10ms"}
    with (
        audited(short_dir, runtime.endpoint, limits=limits) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        events = client.GetContainerEvents()
        wait_until(
            lambda: proxy.metric("criproxy_calls_in_flight", method="GetContainerEvents"),
            "call in flight",
        )
        assert proxy.stop() == 0, proxy.process.stderr
        assert events.code() is not None
    (record,) = records(short_dir)
    assert (record["method"], record["code"]) == ("GetContainerEvents", "UNAVAILABLE")


def test_counted_by_sink(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """What is written, dropped and waiting is in the metrics, by sink; without an audit log there
    is nothing of it."""
    with (
        audited(short_dir, runtime.endpoint) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        client.Version()
        client.Status()
        wait_until(
            lambda: proxy.metric("criproxy_audit_records_total", sink="file") == 2, "two records"
        )
        assert proxy.metric("criproxy_audit_queue_records", sink="file") == 0
        assert proxy.metric("criproxy_audit_queue_bytes", sink="file") == 0
        assert proxy.metric("criproxy_audit_errors_total", sink="file") == 0
        names = {sample.name for sample in proxy.metrics()}
        assert {"criproxy_audit_waiting_calls", "criproxy_audit_refused_total"} <= names
    with Criproxy(short_dir, runtime.endpoint, name="other") as proxy:
        assert not [each for each in proxy.metrics() if each.name.startswith("criproxy_audit")]


def test_moved_files(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """After a move and SIGUSR1 records go to a new file, and none is missing."""
    file = short_dir / "audit.jsonl"
    with (
        audited(short_dir, runtime.endpoint) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        client.Version()
        record_of(short_dir, "Version")
        file.rename(short_dir / "moved.jsonl")
        proxy.process.signal(signal.SIGUSR1)
        wait_until(file.exists, "a new file")
        client.Status()
        assert proxy.stop() == 0
    assert [each["method"] for each in records(short_dir)] == ["Status"]
    assert (short_dir / "moved.jsonl").read_text().count("\n") == 1


def test_rotation(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """Files that have grown are put aside and compressed, and all of them have all the records."""
    rotate = {"size": "4KiB", "keep": None}
    with (
        audited(short_dir, runtime.endpoint, file={"rotate": rotate}) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        for _ in range(40):
            client.Version()
        assert proxy.stop() == 0
    lines = 0
    files = list(short_dir.glob("audit*jsonl*"))
    for each in files:
        data = each.read_bytes()
        lines += (gzip.decompress(data) if each.suffix == ".gz" else data).count(b"\n")
    assert len(files) > 1
    assert lines == 40


@pytest.mark.parametrize(
    ("audit", "status", "named"),
    [
        ({"sinks": [{"file": {"path": "/proc/no/audit.jsonl"}}]}, 1, "/proc/no/audit.jsonl"),
        ({"sinks": [{"stdout": {}}], "redact": {"values": ["("]}}, 2, "regular expression"),
        ({"sinks": [{"stdout": {}}], "policy": [{"level": "None", "methods": ["@x"]}]}, 2, "@x"),
        ({"sinks": []}, 2, "at least one sink"),
    ],
    ids=["file", "expression", "group", "no sinks"],
)
def test_what_cannot_be_is_one_line(
    runtime: EmbeddedRuntime, short_dir: Path, audit: dict[str, Any], status: int, named: str
) -> None:
    """An audit log that cannot be is said in one line, and the daemon does not start without."""
    proxy = Criproxy(short_dir, runtime.endpoint, config={"audit": audit})
    ended, stderr = proxy.fails()
    assert ended == status
    lines = [line for line in stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, stderr
    assert named in lines[0]
    assert not proxy.path.exists()


def test_a_changed_section_is_reloaded(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """A reload puts another policy in force; the log goes on in the same file."""
    with audited(short_dir, runtime.endpoint) as proxy, CriClient(proxy.endpoint) as client:
        client.Version()
        record_of(short_dir, "Version")
        audit = yaml.safe_load(proxy.file.read_text())["audit"]
        nothing = {"level": "None", "methods": ["Version"]}
        proxy.reload(audit=audit | {"policy": [nothing, {"level": "Metadata"}]})
        assert proxy.event("configuration loaded")["keys"] == ["audit.policy"]
        proxy.event("workers of before have ended")
    with audited(short_dir, runtime.endpoint) as proxy, CriClient(proxy.endpoint) as client:
        client.Version()
        client.Status()
        record_of(short_dir, "Status")


def test_dropping(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """Under a sink that is stuck calls go on, and those whose records are missing are reported to
    the record."""
    sink = {"queue": {"records": 10}}
    calls = 60
    with (
        audited(short_dir, runtime.endpoint, sink=sink) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        with stuck(short_dir):
            for _ in range(calls):
                client.Version()
            wait_until(
                lambda: proxy.metric("criproxy_audit_dropped_total", sink="file"), "dropped records"
            )

        def on_record() -> bool:  # where the queue is still full, this call's is dropped too
            nonlocal calls
            calls += 1
            client.Status()
            return bool(of(short_dir, "Status"))

        wait_until(on_record, "record of a call after the sink is free")
        wait_until(  # the recorder reports its counters every second
            lambda: (
                proxy.metric("criproxy_audit_dropped_total", sink="file", reason="queue_full")
                == dropped(short_dir)
            ),
            "the number of dropped records in the metrics",
        )
        assert proxy.stop() == 0
    lost = dropped(short_dir)
    assert lost > 0
    assert len(of(short_dir, "Version")) + len(of(short_dir, "Status")) + lost == calls


def callers(count: int, call: Callable[[], Any]) -> list[threading.Thread]:
    """Threads that make a call each."""
    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_blocking(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """Where no record may be lost, calls wait while a sink is stuck, and go on when it is not; each
    has its record."""
    sink = {"on_full": "block", "max_wait": "60s", "queue": {"records": 5}}
    with (
        audited(short_dir, runtime.endpoint, sink=sink) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        threads: list[threading.Thread] = []

        def some_wait() -> bool:  # what is let through is recorded, which then has others wait
            threads.extend(callers(10, lambda: code_of(client.Status)))
            return proxy.metric("criproxy_audit_waiting_calls") > 0

        with stuck(short_dir):
            wait_until(some_wait, "calls that wait")
        for thread in threads:
            thread.join()
        assert client.Version().runtime_name
        wait_until(lambda: proxy.metric("criproxy_audit_waiting_calls") == 0, "no calls that wait")
        assert proxy.stop() == 0
    assert len(of(short_dir, "Version")) == 1
    assert len(of(short_dir, "Status")) == len(threads)
    assert dropped(short_dir) == 0
    assert {each["code"] for each in records(short_dir)} == {"OK"}


def test_refusing(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """A call that has waited for too long is refused, does not reach the runtime, and is counted;
    every call is either in the log or reported as missing from it."""
    sink = {"on_full": "block", "max_wait": "200ms", "queue": {"records": 3}}
    codes: Counter[str] = Counter()
    with (
        audited(short_dir, runtime.endpoint, sink=sink) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
        CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as direct,
    ):
        container = direct.ListContainers().containers[0].id
        with stuck(short_dir):
            while codes["UNAVAILABLE"] < 3:
                codes[code_of(client.Version)] += 1
            with pytest.raises(grpc.RpcError) as refused:
                client.StopContainer(container_id=container)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "audit log" in str(refused.value.details())
            assert direct.ContainerStatus(container_id=container).status.state == 1  # it runs
            assert proxy.metric("criproxy_audit_refused_total") == 4
        assert code_of(lambda: wait_until(lambda: code_of(client.Status) == "OK", "room")) == "OK"
        refusals = proxy.metric("criproxy_audit_refused_total")
        assert proxy.stop() == 0
    told = records(short_dir)
    done = [each for each in told if each["kind"] == "Event" and each["code"] == "OK"]
    assert len([each for each in done if each["method"] == "Version"]) == codes["OK"]
    unavailable = [each for each in told if each.get("code") == "UNAVAILABLE"]
    assert len(unavailable) + dropped(short_dir) == refusals


def test_deadline_while_waiting(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """A client's own deadline ends the wait for the audit log."""
    sink = {"on_full": "block", "max_wait": "60s", "queue": {"records": 1}}
    with (
        audited(short_dir, runtime.endpoint, sink=sink) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        with stuck(short_dir):
            client.Version()
            wait_until(lambda: proxy.metric("criproxy_audit_queue_records") >= 1, "full queue")
            assert code_of(lambda: client.Status(deadline=0.3)) == "DEADLINE_EXCEEDED"
            wait_until(lambda: proxy.metric("criproxy_audit_waiting_calls") == 0, "none waits")
        assert proxy.metric("criproxy_audit_refused_total") == 0


LOAD = """
import sys
from threading import Thread
import grpc
from criproxy.client import CriClient
endpoint, container = sys.argv[1:]
def run(number):
    with CriClient(endpoint, timeout=120) as client:
        for count in range(100000):
            try:
                client.ExecSync(container_id=container, cmd=["echo", f"{number}-{count}"])
            except grpc.RpcError:
                return
threads = [Thread(target=run, args=(number,)) for number in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
"""Makes calls, each of which can be told from the others, until they fail."""


@pytest.mark.parametrize("fsync", ["none", "interval", "always"])
def test_killed_under_load(runtime: EmbeddedRuntime, short_dir: Path, fsync: str) -> None:
    """The log of a killed daemon has whole records only; where it blocks and fsyncs each record,
    it has every call that the runtime has received."""
    blocks = {"on_full": "block"} if fsync == "always" else {}
    seen_dir = short_dir / "seen"
    seen_dir.mkdir()
    # The runtime is another proxy, whose log has the calls that have reached it.
    behind = audited(seen_dir, runtime.endpoint, [{"level": "Request", "methods": ["ExecSync"]}])
    with (
        behind,
        audited(
            short_dir, behind.endpoint, file={"fsync": fsync, "chain": True}, sink=blocks
        ) as proxy,
        CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as direct,
    ):
        container = direct.ListContainers().containers[0].id
        load = program(short_dir / "load", LOAD, proxy.endpoint, container)
        load.start()
        wait_until(lambda: len(of(short_dir, "ExecSync")) > 50, "calls on record")
        proxy.kill()
        assert load.wait() == 0, load.stderr
        assert behind.stop() == 0
    reached, recorded = (
        {
            each["requestObject"]["cmd"][1]
            for each in records(directory)
            if each["method"] == "ExecSync" and "requestObject" in each  # not headers alone
        }
        for directory in (seen_dir, short_dir)
    )
    assert len(recorded) > 50
    assert len(reached) > 50
    if fsync == "always":
        assert reached <= recorded
