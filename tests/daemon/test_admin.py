"""The admin socket of a running daemon: what it tells, whom it lets in, and its life."""

import json
import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import pytest

from criproxy.cli.support.admin_client import AdminClient
from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.errors import UnavailableError
from criproxy.relay.endpoints import Endpoint
from criproxy.timeline.logged_call import parse_line
from tests.support.criproxy import Criproxy
from tests.support.process_tree import is_alive, named
from tests.support.waiting import LIMIT_SECONDS, wait_until

POD = {"metadata": {"name": "web", "namespace": "shop", "uid": "u-1"}}
IMAGE = "example.test/app:1"
CONTAINER = {"metadata": {"name": "app"}, "image": {"image": IMAGE}}
HANG = {"name": "hang", "match": {"methods": ["PullImage"]}, "delay": {"fixed": "1h"}}


def configured(directory: Path, **more: Any) -> dict[str, Any]:
    return {"admin": {"socket": f"unix://{directory}/admin.sock"}} | more


@pytest.fixture
def admin(short_dir: Path) -> AdminClient:
    return AdminClient(Endpoint(f"{short_dir}/admin.sock"))


@pytest.fixture
def proxy(runtime: EmbeddedRuntime, short_dir: Path) -> Iterator[Criproxy]:
    """A proxy with an admin socket; the call log names no pods."""
    with Criproxy(short_dir, runtime.endpoint, config=configured(short_dir)) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Criproxy) -> Iterator[CriClient]:
    with CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client:
        yield client


def start_pod(client: CriClient) -> tuple[str, str]:
    """Start a pod with a container, and return their ids."""
    client.PullImage(image=CONTAINER["image"], sandbox_config=POD)
    pod = client.RunPodSandbox(config=POD).pod_sandbox_id
    create = {"pod_sandbox_id": pod, "config": CONTAINER, "sandbox_config": POD}
    container = client.CreateContainer(**create).container_id
    client.StartContainer(container_id=container)
    return pod, container


def test_pod_starts(proxy: Criproxy, client: CriClient, admin: AdminClient) -> None:
    """A pod that has started is among the last starts, with each call, and not starting."""
    pod, _ = start_pod(client)
    (start,) = wait_until(lambda: started(admin), "the start")
    assert (start["namespace"], start["pod"], start["pod_id"]) == ("shop", "web", pod)
    calls = [phase["method"] for phase in start["phases"] if "method" in phase]
    assert calls == ["RunPodSandbox", "CreateContainer", "StartContainer"]
    assert "phase" not in start
    assert admin.get("state")["pods"] == []


def started(admin: AdminClient) -> list[dict[str, Any]]:
    """The pods that have started."""
    return [each for each in admin.get("pods")["pods"] if each["state"] == "started"]


def test_a_pod_that_is_starting(
    runtime: EmbeddedRuntime, short_dir: Path, admin: AdminClient
) -> None:
    """A pull in flight is slow, and its pod's phase and cause; other pages name no pod."""
    config = configured(short_dir, rules=[HANG], slow={"methods": {"PullImage": "1ms"}})
    with (
        Criproxy(short_dir, runtime.endpoint, config=config) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        client.RunPodSandbox(config=POD)
        pull = client.messages.PullImageRequest(image=CONTAINER["image"], sandbox_config=POD)
        call = client.raw("PullImage").future(pull)
        held = wait_until(
            lambda: [each for each in admin.get("state")["calls"] if each["held_s"]],
            "a held call",
        )
        (in_flight,) = held
        assert (in_flight["method"], in_flight["worker"]) == ("PullImage", "full")
        assert (in_flight["slow"], in_flight["rules"]) == (True, ["hang"])
        assert (in_flight["namespace"], in_flight["pod"]) == ("shop", "web")
        state = admin.get("state")
        (start,) = state["pods"]
        assert start["state"] == "running"
        assert (start["phase"]["kind"], start["phase"]["subject"]) == ("pull", IMAGE)
        assert start["phase"]["text"] == f"image pull of {IMAGE}"
        assert start["cause"]["kind"] == "pull"
        assert start["cause"]["text"].endswith(" held by hang)")
        (unnamed,) = json.loads(proxy.get("/calls")[1])["calls"]
        assert "pod" not in unnamed
        assert "pod" not in proxy.event("call", method="RunPodSandbox")
        call.cancel()
        wait_until(lambda: phase(admin) == ("failing", "retry"), "end of the call")
        (start,) = admin.get("state")["pods"]
        assert start["phase"]["text"] == f"wait for another attempt, image pull of {IMAGE}"


def test_a_stopped_pod_is_not_starting(client: CriClient, admin: AdminClient) -> None:
    """A sandbox without a container is starting until it is stopped."""
    pod = client.RunPodSandbox(config=POD).pod_sandbox_id
    wait_until(lambda: admin.get("state")["pods"], "the pod")
    wait_until(lambda: phase(admin) == ("unfinished", "kubelet"), "the end of the call")
    client.StopPodSandbox(pod_sandbox_id=pod)
    wait_until(lambda: admin.get("state")["pods"] == [], "no pod")


def phase(admin: AdminClient) -> tuple[str, str]:
    """The state and the phase of the pod that is starting."""
    (start,) = admin.get("state")["pods"]
    return start["state"], start["phase"]["kind"]


def test_counters_of_methods(client: CriClient, admin: AdminClient) -> None:
    """Methods have their calls by code, and cumulative buckets of durations."""
    client.Version()
    client.Version()
    version = wait_until(lambda: counted(admin, "Version", 2), "the counters")
    assert version["service"] == "runtime.v1.RuntimeService"
    bounds, counts = zip(*version["buckets"], strict=True)
    assert (bounds[0], bounds[-1], counts[-1]) == (0.0005, None, 2)
    assert list(counts) == sorted(counts)
    assert admin.get("state")["runtime_problem"] is None


def counted(admin: AdminClient, method: str, calls: int) -> dict[str, Any] | None:
    """The counters of a method once so many of its calls have ended with OK."""
    methods: list[dict[str, Any]] = admin.get("state")["methods"]
    for each in methods:
        if (each["method"], each["codes"]) == (method, {"OK": calls}):
            return each
    return None


def test_tail(client: CriClient, admin: AdminClient) -> None:
    """Each call that ends is a line for each reader, with names, also of what it removes."""
    with closing(admin.lines()) as lines, closing(admin.lines()) as others:
        pod, container = start_pod(client)
        client.StopContainer(container_id=container)
        client.RemoveContainer(container_id=container)
        client.StopPodSandbox(pod_sandbox_id=pod)
        client.RemovePodSandbox(pod_sandbox_id=pod)
        client.Version()
        read = [json.loads(line) for line in islice(lines, 9)]
        assert read == [json.loads(line) for line in islice(others, 9)]
    assert [line["method"] for line in read] == [
        *("PullImage", "RunPodSandbox", "CreateContainer", "StartContainer", "StopContainer"),
        *("RemoveContainer", "StopPodSandbox", "RemovePodSandbox", "Version"),
    ]
    assert {line["event"] for line in read} == {"call"}
    assert [line["level"] for line in read] == [*["info"] * 8, "debug"]
    assert {(line["namespace"], line["pod"]) for line in read[:8]} == {("shop", "web")}
    assert [line.get("container") for line in read[2:6]] == ["app"] * 4


def test_records(proxy: Criproxy, client: CriClient, admin: AdminClient) -> None:
    """Each call is a record with its messages for each reader, also without an audit log.

    What is secret is redacted, and what a command writes left out.
    """
    secret, auth = "s3cret-word", {"username": "u", "password": "s3cret-word"}
    pod = client.RunPodSandbox(config=POD).pod_sandbox_id
    with closing(admin.lines("records")) as lines, closing(admin.lines("records")) as more:
        client.PullImage(image=CONTAINER["image"], auth=auth, sandbox_config=POD)
        config = CONTAINER | {"envs": [{"key": "TOKEN", "value": secret.encode()}]}
        create = {"pod_sandbox_id": pod, "config": config, "sandbox_config": POD}
        container = client.CreateContainer(**create).container_id
        client.StartContainer(container_id=container)
        client.ExecSync(container_id=container, cmd=["echo", "hi"])
        texts = list(islice(lines, 4))
        assert texts == list(islice(more, 4))
    pull, created, start, exec_sync = read = [json.loads(line) for line in texts]
    methods = [each["method"] for each in read]
    assert methods == ["PullImage", "CreateContainer", "StartContainer", "ExecSync"]
    assert {each["level"] for each in read} == {"RequestResponse"}
    assert {each["pod"]["name"] for each in read} == {"web"}
    assert created["responseObject"] == {"containerId": container}
    mark = f"[redacted: {len(secret)} bytes]"
    assert pull["requestObject"]["auth"] == {"username": "u", "password": mark}
    assert created["requestObject"]["config"]["envs"] == [{"key": "TOKEN", "value": mark}]
    assert (start["responseObject"], exec_sync["responseObject"]) == ({}, {})
    assert secret.encode() not in b"".join(texts)
    assert not proxy.events("audit log in trouble")


def test_records_go_on(proxy: Criproxy, client: CriClient, admin: AdminClient) -> None:
    """A reader has the records of later calls after the process that makes them has been killed,
    and after the worker has."""
    ended = threading.Event()

    def keep_calling() -> None:
        with CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as other:
            while not ended.wait(0.02):
                with suppress(grpc.RpcError):
                    other.Version()

    calling = threading.Thread(target=keep_calling)
    calling.start()
    try:
        with closing(admin.lines("records")) as lines:
            for name in ("criproxy:tail", "criproxy:full"):
                assert json.loads(next(lines))["method"] == "Version"
                os.kill(named(proxy.process.pid, name), signal.SIGKILL)
                killed = time.time()
                while parse_line(next(lines)).began < killed:  # type: ignore[union-attr]
                    pass
    finally:
        ended.set()
        calling.join()
    assert proxy.event("process started", process="tail")


def test_several_workers(runtime: EmbeddedRuntime, short_dir: Path, admin: AdminClient) -> None:
    """What all workers relay is added up."""
    restricted = f"unix://{short_dir}/ro.sock"
    listeners = [
        {"endpoint": f"unix://{short_dir}/proxy.sock", "runtime": runtime.endpoint},
        {"endpoint": restricted, "runtime": runtime.endpoint, "profile": "read-only"},
    ]
    with (
        Criproxy(short_dir, config=configured(short_dir, listeners=listeners)) as proxy,
        closing(admin.lines()) as lines,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as full,
        CriClient(restricted, timeout=LIMIT_SECONDS) as scoped,
    ):
        full.Version()
        scoped.Version()
        read = [json.loads(line)["listener"] for line in islice(lines, 2)]
        assert sorted(read) == sorted([proxy.endpoint, restricted])
        wait_until(lambda: counted(admin, "Version", 2), "the counters of both")


def test_other_pages(proxy: Criproxy, admin: AdminClient, short_dir: Path) -> None:
    """The socket's mode is 0600, and it has the pages of the HTTP endpoint, too."""
    path = short_dir / "admin.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_ISSOCK(path.stat().st_mode)
    with pytest.raises(UnavailableError, match="/metrics /healthz /readyz /calls /rules"):
        admin.get("nothing")
    assert proxy.stop() == 0
    assert not path.exists()


def test_nothing_is_captured(proxy: Criproxy, admin: AdminClient) -> None:
    """Where nothing is captured, who asks for it is told so, and how it would be."""
    with pytest.raises(UnavailableError, match=r"nothing is captured; set capture\.directory"):
        admin.post("capture")


def test_reload(runtime: EmbeddedRuntime, short_dir: Path, admin: AdminClient) -> None:
    """A reload opens the socket, and closes it."""
    path = short_dir / "admin.sock"
    with Criproxy(short_dir, runtime.endpoint) as proxy:
        assert not path.exists()
        proxy.reload(**configured(short_dir))
        wait_until(lambda: len(proxy.events("configuration loaded")) == 1, "reload")
        assert admin.get("state")["pods"] == []
        proxy.reload(admin={"socket": None})
        wait_until(lambda: len(proxy.events("configuration loaded")) == 2, "reload")
        assert not path.exists()


def test_upgrade(proxy: Criproxy, admin: AdminClient) -> None:
    """After an upgrade the new supervisor answers, and readers of the old one see its end."""
    before = admin.get("state")["started"]
    lines = admin.lines()
    proxy.process.signal(signal.SIGUSR2)
    assert proxy.process.wait() == 0
    successor = proxy.event("upgraded")["successor"]
    try:
        with pytest.raises(UnavailableError, match="the daemon has ended"):
            next(lines)
        assert admin.get("state")["started"] > before
    finally:
        os.kill(successor, signal.SIGTERM)
        wait_until(lambda: not is_alive(successor), "end of the successor")


def test_taken(proxy: Criproxy, runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """A socket that another daemon serves is not taken from it."""
    other = Criproxy(short_dir, runtime.endpoint, config=configured(short_dir), name="other")
    status, said = other.fails()
    assert status == 1
    assert "another process listens there" in said


def test_is_no_listener(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """The admin socket cannot be the endpoint of a listener."""
    config = {"admin": {"socket": f"unix://{short_dir}/proxy.sock"}}
    status, said = Criproxy(short_dir, runtime.endpoint, config=config).fails()
    assert status == 2
    assert "admin.socket is the endpoint of a listener" in said
