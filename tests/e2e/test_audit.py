"""The audit log on a real containerd: the names of callers, pods and containers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.containerd import Containerd
from tests.support.criproxy import Criproxy
from tests.support.image import IMAGE
from tests.support.pods import Pods
from tests.support.program import program

pytestmark = pytest.mark.e2e

KUBELET = """
import json, sys
from criproxy.client import CriClient
endpoint, version, cgroup_parent, image = sys.argv[1:]
config = {
    "metadata": {"name": "web", "uid": "uid-web", "namespace": "shop"},
    "linux": {"cgroup_parent": cgroup_parent},
}
with CriClient(endpoint, version, timeout=60) as client:
    client.Version()
    client.ListPodSandbox()
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    value = client.messages.KeyValue.DESCRIPTOR.fields_by_name["value"]
    secret = "-".join(["env", "secret"])  # not in the command line, which is recorded
    secret = secret.encode() if value.type == value.TYPE_BYTES else secret
    container = client.CreateContainer(
        pod_sandbox_id=pod,
        sandbox_config=config,
        config={
            "metadata": {"name": "main"},
            "image": {"image": image},
            "envs": [{"key": "TOKEN", "value": secret}],
        },
    ).container_id
    client.StartContainer(container_id=container)
    client.ContainerStatus(container_id=container)
    for command in ("true", "false"):
        client.ExecSync(container_id=container, cmd=[command], timeout=60)
print(json.dumps([pod, container]))
"""
"""Runs a pod as a kubelet does, and probes it: once the probe succeeds, once it fails."""

AGENT = """
import sys
from criproxy.client import CriClient
endpoint, version, container = sys.argv[1:]
with CriClient(endpoint, version, timeout=60) as client:
    client.ContainerStatus(container_id=container)
    client.ExecSync(container_id=container, cmd=["echo", "hi"])
"""
"""Looks at a container, and runs something in it."""


class Audited:
    """A proxy with an audit log."""

    def __init__(self, runtime: Containerd, directory: Path) -> None:
        self.file = directory / "audit" / "audit.jsonl"
        audit = {"sinks": [{"file": {"path": str(self.file), "chain": True}}]}
        self.proxy = Criproxy(directory, runtime.endpoint, config={"audit": audit})

    def records(self) -> list[dict[str, Any]]:
        """What there is when the proxy has ended."""
        assert self.proxy.stop() == 0
        return [json.loads(line) for line in self.file.read_text().splitlines()]


@pytest.fixture
def audited(runtime: Containerd, short_dir: Path) -> Iterator[Audited]:
    audited = Audited(runtime, short_dir)
    with audited.proxy:
        yield audited


def run(path: Path, code: str, *arguments: str) -> str:
    """Run code as a program of that path; return what it printed."""
    process = program(path, code, *arguments)
    process.start()
    assert process.wait() == 0, process.stderr
    return process.stdout


def test_who_did_what(runtime: Containerd, audited: Audited, short_dir: Path, version: str) -> None:
    """A pod of the kubelet and an exec of another client are recorded with their names; reads of
    the kubelet, successful probes and values of the environment are not."""
    endpoint = audited.proxy.endpoint
    kubelet, agent = short_dir / "kubelet", short_dir / "agent"
    with Pods(runtime, version) as pods:
        told = run(kubelet, KUBELET, endpoint, version, runtime.cgroup_parent, IMAGE)
        pod, container = json.loads(told)
        pods.keep(pod)
        run(agent, AGENT, endpoint, version, container)
    records = [each for each in audited.records() if each["stage"] == "ResponseComplete"]
    done = [(each["caller"]["executable"], each["method"], each["level"]) for each in records]
    assert done == [
        (str(kubelet), "RunPodSandbox", "Metadata"),
        (str(kubelet), "CreateContainer", "Metadata"),
        (str(kubelet), "StartContainer", "Metadata"),
        (str(kubelet), "ExecSync", "Request"),
        (str(agent), "ContainerStatus", "Request"),
        (str(agent), "ExecSync", "Request"),
    ]
    names = {"id": pod, "namespace": "shop", "name": "web", "uid": "uid-web"}
    for record in records:
        assert record["pod"].items() >= names.items()
        assert record["code"] == "OK"
        assert record["criVersion"] == version
        assert record["caller"]["kubelet"] == (record["caller"]["executable"] == str(kubelet))
        assert record["caller"]["uid"] == 0
    for record in records[1:]:
        assert record["container"]["name"] == "main"
        assert record["container"]["id"] == container
    assert records[1]["image"] == IMAGE
    assert (records[3]["requestObject"]["cmd"], records[3]["exitCode"]) == (["false"], 1)
    assert (records[5]["requestObject"]["cmd"], records[5]["exitCode"]) == (["echo", "hi"], 0)
    assert all("requestObject" not in record for record in records[:3])
    assert "env-secret" not in audited.file.read_text()


def test_environment_at_the_highest_level(
    runtime: Containerd, short_dir: Path, version: str
) -> None:
    """With everything recorded, records have the keys of the environment, and the responses."""
    file = short_dir / "audit.jsonl"
    audit = {
        "policy": [{"level": "RequestResponse"}],
        "sinks": [{"file": {"path": str(file)}}],
    }
    with (
        Criproxy(short_dir, runtime.endpoint, config={"audit": audit}) as proxy,
        Pods(runtime, version) as pods,
    ):
        arguments = (proxy.endpoint, version, runtime.cgroup_parent, IMAGE)
        pod, container = json.loads(run(short_dir / "kubelet", KUBELET, *arguments))
        pods.keep(pod)
        assert proxy.stop() == 0
    text = file.read_text()
    records = {each["method"]: each for each in map(json.loads, text.splitlines())}
    created = records["CreateContainer"]
    assert created["responseObject"] == {"containerId": container}
    (env,) = created["requestObject"]["config"]["envs"]
    assert env["key"] == "TOKEN"
    assert env["value"] == "[redacted: 10 bytes]"
    assert "env-secret" not in text
    assert records["ContainerStatus"]["responseObject"]["status"]["id"] == container
