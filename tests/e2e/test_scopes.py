"""Restricted listeners in front of a real containerd."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import grpc
import pytest

from criproxy.client import CriClient
from criproxy.cri.methods import METHODS
from tests.support.containerd import Containerd
from tests.support.criproxy import Criproxy
from tests.support.grpc_peers import code_of
from tests.support.image import IMAGE
from tests.support.pods import Pods
from tests.support.waiting import LIMIT_SECONDS, wait_until

pytestmark = pytest.mark.e2e


@contextmanager
def scoped(
    runtime: Containerd, directory: Path, profile: str, **config: Any
) -> Iterator[tuple[Criproxy, str]]:
    """A proxy with a full listener and a scoped one; yield it and the latter's endpoint."""
    endpoint = f"unix://{directory}/scoped.sock"
    listeners = [
        {"endpoint": f"unix://{directory}/proxy.sock", "runtime": runtime.endpoint},
        {"endpoint": endpoint, "runtime": runtime.endpoint, "profile": profile},
    ]
    with Criproxy(directory, config={"listeners": listeners, **config}) as proxy:
        yield proxy, endpoint


def test_reads_of_a_read_only_socket(runtime: Containerd, short_dir: Path, version: str) -> None:
    """What crictl reads is the same at a read-only socket, but for what verbose answers add."""
    with (
        Pods(runtime, version) as pods,
        scoped(runtime, short_dir, "read-only") as (_, endpoint),
        CriClient(endpoint, version, timeout=LIMIT_SECONDS) as client,
    ):
        pod = pods.pod(pods.direct, "web")
        container = pods.start(pods.direct, pod)
        calls: list[Callable[[CriClient], Any]] = [
            lambda to: to.Version(),
            lambda to: to.Status(),
            lambda to: to.ListPodSandbox(filter={"id": pod}),
            lambda to: to.PodSandboxStatus(pod_sandbox_id=pod),
            lambda to: to.ListContainers(filter={"id": container}),
            lambda to: to.ContainerStatus(container_id=container),
            lambda to: sorted(to.ListImages().images, key=attrgetter("id")),
            lambda to: to.ImageStatus(image={"image": IMAGE}),
        ]
        for call in calls:
            assert call(client) == call(pods.direct)
        assert pods.direct.ContainerStatus(container_id=container, verbose=True).info
        assert not client.ContainerStatus(container_id=container, verbose=True).info
        assert client.ContainerStats(container_id=container).stats.attributes.id == container


def test_changes_at_a_read_only_socket(runtime: Containerd, short_dir: Path, version: str) -> None:
    """Whatever is not a read is denied, and the runtime's own log knows nothing of it."""
    with (
        Pods(runtime, version) as pods,
        scoped(runtime, short_dir, "read-only") as (proxy, endpoint),
        grpc.insecure_channel(endpoint) as channel,
    ):
        container = pods.start(pods.direct, pods.pod(pods.direct, "web"))
        log = runtime.process.stderr_path
        before = log.read_text().count("\n")
        paths = [
            method.path
            for method in METHODS.values()
            if method.mutating and method.api_version == version
        ]
        invented = [f"/runtime.{version}.RuntimeService/ExecEverything", "/x.Y/Z"]
        stop = pods.direct.messages.StopContainerRequest(container_id=container)
        for path in paths + invented:
            call = channel.unary_unary(path, None, None)
            request = stop.SerializeToString()  # for all: an id that some of them take
            denied = code_of(lambda: call(request, timeout=LIMIT_SECONDS))  # noqa: B023
            expected = "UNIMPLEMENTED" if path in invented else "PERMISSION_DENIED"
            assert (path, denied) == (path, expected)
        assert pods.state(container) == "RUNNING"
        for line in log.read_text().splitlines()[before:]:
            assert "Container" not in line, line
        assert proxy.metric("criproxy_denied_total", listener=endpoint) == len(paths + invented)


INSIDE = """
import json, sys
import grpc
from criproxy.client import CriClient
endpoint, out, own, other, mine, theirs = sys.argv[1:]
def code(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code().name
    return "OK"
with CriClient(endpoint, timeout=60) as client:
    seen = {
        "pods": [each.id for each in client.ListPodSandbox().items],
        "containers": [each.id for each in client.ListContainers().containers],
        "own pod": code(lambda: client.PodSandboxStatus(pod_sandbox_id=own)),
        "other pod": code(lambda: client.PodSandboxStatus(pod_sandbox_id=other)),
        "own container": code(lambda: client.ContainerStatus(container_id=mine)),
        "other container": code(lambda: client.ContainerStatus(container_id=theirs)),
        "no container": code(lambda: client.ContainerStatus(container_id="")),
        "exec": code(lambda: client.ExecSync(container_id=mine, cmd=["true"])),
    }
with open(out + ".new", "w") as file:
    json.dump(seen, file)
import os
os.rename(out + ".new", out)
"""
"""Looks around from within a container."""


def test_own_pod_from_within(runtime: Containerd, short_dir: Path) -> None:
    """A container with the socket mounted sees its own pod, whatever it asks for, and no other."""
    profiles = {"own": {"methods": ["@read"], "own_pod": True}}
    audit_file = short_dir / "audit.jsonl"
    audit = {"sinks": [{"file": {"path": str(audit_file)}}]}
    with (
        Pods(runtime) as pods,
        scoped(runtime, short_dir, "own", profiles=profiles, audit=audit) as (proxy, endpoint),
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as kubelet,
    ):
        own, other = pods.pod(kubelet, "own"), pods.pod(kubelet, "other")
        theirs = pods.start(kubelet, other)
        out = short_dir / "seen.json"
        script = short_dir / "inside.py"
        script.write_text(INSIDE)
        start = short_dir / "start.sh"
        mine = pods.create(
            kubelet,
            own,
            command=["/bin/busybox", "chroot", "/host", "sh", str(start)],
            mounts=[{"container_path": "/host", "host_path": "/"}],
        )
        arguments = [endpoint, str(out), own, other, mine, theirs]
        python = f"cd {Path.cwd()} && PYTHONPATH={Path.cwd()} exec {sys.executable} {script}"
        start.write_text(f"{python} {' '.join(arguments)} 2>{short_dir}/inside.err\n")
        kubelet.StartContainer(container_id=mine)
        wait_until(
            out.exists,
            "what the container saw",
            report=lambda: (short_dir / "inside.err").read_text(),
        )
        assert json.loads(out.read_text()) == {
            "pods": [own],
            "containers": [mine],
            "own pod": "OK",
            "other pod": "PERMISSION_DENIED",
            "own container": "OK",
            "other container": "PERMISSION_DENIED",
            "no container": "PERMISSION_DENIED",
            "exec": "PERMISSION_DENIED",
        }
        assert proxy.stop() == 0
    records = [json.loads(line) for line in audit_file.read_text().splitlines()]
    denied = [each for each in records if each.get("denied")]
    assert [each["method"] for each in denied] == [
        "PodSandboxStatus",
        "ContainerStatus",
        "ContainerStatus",
        "ExecSync",
    ]
    for record in denied:
        assert record["caller"]["container"]["id"] == mine
        assert record["caller"]["container"]["name"] == "main"
        assert record["code"] == "PERMISSION_DENIED"
