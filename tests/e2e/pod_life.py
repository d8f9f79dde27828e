"""The calls of a kubelet over the life of a pod."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.recorder import Recorder
from tests.support.image import IMAGE
from tests.support.waiting import wait_until

UNKNOWN = "0" * 64
"""An id that no runtime ever gave."""
PROGRAM = 'echo "hello $NAME"; echo oops >&2; trap "exit 3" TERM; sleep 2147483647 & wait'
"""What the container runs: a line on each stream, then nothing until SIGTERM."""


@dataclass(frozen=True)
class Pod:
    """Where a pod goes: its name, its logs on disk, and the cgroup its cgroup is put in.

    ``image`` is the name by which its container's image is asked for.
    """

    name: str
    logs: Path
    cgroup_parent: str
    image: str = IMAGE

    @property
    def log_file(self) -> Path:
        """The log of the pod's only container."""
        return self.logs / "main_0.log"


def live(client: Recorder, pod: Pod) -> None:
    """Make a pod with one container, look at it from all sides, and take it down again."""
    _node(client, pod)
    sandbox_config = _sandbox_config(client, pod)
    run = client.call("RunPodSandbox", config=sandbox_config)
    sandbox = client.name(run.pod_sandbox_id, "<sandbox>")
    _sandbox(client, sandbox)
    create = client.call(
        "CreateContainer",
        pod_sandbox_id=sandbox,
        config=_container_config(client, pod),
        sandbox_config=sandbox_config,
    )
    container = client.name(create.container_id, "<container>")
    client.call("ContainerStatus", container_id=container)
    client.call("StartContainer", container_id=container)
    wait_until(lambda: log_lines(pod) == _EXPECTED_LOG, f"the container's log in {pod.log_file}")
    _running(client, sandbox, container)
    _end(client, sandbox, container)


def log_lines(pod: Pod) -> list[str]:
    """The container's log on disk without its times, sorted: its two streams are not in step."""
    lines = pod.log_file.read_text().splitlines()
    return sorted(line.partition(" ")[2] for line in lines)


_EXPECTED_LOG = ["stderr F oops", "stdout F hello pod"]


def _node(client: Recorder, pod: Pod) -> None:
    client.call("Version", version="0.1.0")
    client.call("Status")
    client.call("Status", verbose=True)
    client.call("ListImages")
    client.call("ImageStatus", image={"image": pod.image})
    client.call("ImageStatus", image={"image": "criproxy.test/absent:1"})
    client.call("ImageFsInfo")
    client.call("ListPodSandbox")
    client.call("ListContainers")
    client.call("UpdateRuntimeConfig", runtime_config={"network_config": {"pod_cidr": ""}})


def _sandbox(client: Recorder, sandbox: str) -> None:
    client.call("PodSandboxStatus", pod_sandbox_id=sandbox)
    client.call("PodSandboxStatus", pod_sandbox_id=UNKNOWN)
    client.call("ListPodSandbox", filter={"id": sandbox})
    client.call("ListPodSandbox", filter={"label_selector": {"app": "criproxy"}})
    client.call("ListPodSandbox", filter={"label_selector": {"app": "another"}})
    client.call("CreateContainer", pod_sandbox_id=UNKNOWN)


def _running(client: Recorder, sandbox: str, container: str) -> None:
    client.call("ContainerStatus", container_id=container)
    client.call("ContainerStatus", container_id=UNKNOWN)
    client.call("ListContainers", filter={"pod_sandbox_id": sandbox})
    client.call("StartContainer", container_id=container)
    _exec(client, container)
    client.call("ContainerStats", container_id=container)
    client.call("ContainerStats", container_id=UNKNOWN)
    client.call("ListContainerStats", filter={"pod_sandbox_id": sandbox})
    client.call("PodSandboxStats", pod_sandbox_id=sandbox)
    client.call("ListPodSandboxStats", filter={"id": sandbox})
    client.call("ReopenContainerLog", container_id=container)
    client.call("UpdateContainerResources", container_id=container, linux={"cpu_shares": 256})
    client.call("RemoveContainer", container_id=UNKNOWN)


def _exec(client: Recorder, container: str) -> None:
    def sync(*cmd: str, timeout: int = 0) -> None:
        client.call("ExecSync", container_id=container, cmd=cmd, timeout=timeout)

    sync("echo", "hi")
    sync("sh", "-c", "cat /etc/hostname >&2; exit 7")
    sync("cat", "/bin/busybox")
    sync("no-such-program")
    sync("sleep", "60", timeout=1)
    client.call("ExecSync", container_id=UNKNOWN, cmd=["true"])
    client.call("Exec", container_id=container, cmd=["true"], stdout=True)
    client.call("Attach", container_id=container, stdout=True)
    client.call("PortForward", pod_sandbox_id=UNKNOWN, port=[80])


def _end(client: Recorder, sandbox: str, container: str) -> None:
    client.call("StopContainer", container_id=container, timeout=30)
    client.call("ContainerStatus", container_id=container)
    client.call("ExecSync", container_id=container, cmd=["true"])
    client.call("StopContainer", container_id=UNKNOWN, timeout=0)
    client.call("RemoveContainer", container_id=container)
    client.call("ContainerStatus", container_id=container)
    client.call("StopPodSandbox", pod_sandbox_id=sandbox)
    client.call("PodSandboxStatus", pod_sandbox_id=sandbox)
    client.call("RemovePodSandbox", pod_sandbox_id=sandbox)
    client.call("RemovePodSandbox", pod_sandbox_id=sandbox)
    client.call("PodSandboxStatus", pod_sandbox_id=sandbox)
    client.call("RemoveImage", image={"image": "criproxy.test/absent:1"})


def _sandbox_config(client: Recorder, pod: Pod) -> Any:
    return client.messages.PodSandboxConfig(
        metadata={"name": pod.name, "uid": f"uid-{pod.name}", "namespace": "e2e", "attempt": 1},
        hostname=pod.name,
        log_directory=str(pod.logs),
        dns_config={"servers": ["10.96.0.10"], "searches": ["e2e.svc"], "options": ["ndots:5"]},
        port_mappings=[{"container_port": 80}],
        labels={"app": "criproxy", "tier": "e2e"},
        annotations={"note": "any text: ünïcödé"},
        linux={
            "cgroup_parent": pod.cgroup_parent,
            "security_context": {"namespace_options": {"pid": client.messages.CONTAINER}},
        },
    )


def _container_config(client: Recorder, pod: Pod) -> Any:
    return client.messages.ContainerConfig(
        metadata={"name": "main"},
        image={"image": pod.image},
        command=["sh", "-c", PROGRAM],
        working_dir="/tmp",
        envs=[{"key": "NAME", "value": client.env_value("pod")}, {"key": "EMPTY"}],
        mounts=[
            {"container_path": "/logs", "host_path": str(pod.logs), "readonly": True},
        ],
        labels={"io.kubernetes.container.name": "main"},
        annotations={"restarts": "0"},
        log_path=pod.log_file.name,
        linux={
            "resources": {"cpu_shares": 128, "memory_limit_in_bytes": 64 << 20},
            "security_context": {"namespace_options": {"pid": client.messages.CONTAINER}},
        },
    )
