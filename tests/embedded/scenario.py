"""Calls of all CRI methods, valid and invalid, whose answers can be compared between runtimes."""

import re
from collections.abc import Iterator
from typing import Any

import grpc

from criproxy.client import CriClient
from tests.support.waiting import wait_until

UNKNOWN_ID = "0" * 64
SERVER = ("/bin/sh", "-c", 'trap "exit 0" TERM; while true; do sleep 0.05; done')
LONG_ID = re.compile(r"\b[0-9a-f]{64}\b")

SANDBOX_CALLS = (
    "StopPodSandbox",
    "RemovePodSandbox",
    "PodSandboxStatus",
    "PodSandboxStats",
    "PortForward",
)
CONTAINER_CALLS = (
    "StartContainer",
    "StopContainer",
    "RemoveContainer",
    "ContainerStatus",
    "ContainerStats",
    "ReopenContainerLog",
    "ExecSync",
    "Exec",
    "Attach",
    "UpdateContainerResources",
)


class Scenario:
    """Makes calls and notes the answers: ``what: Method -> CODE details``, ids made alike."""

    def __init__(self, client: CriClient, image: str, cgroup_parent: str = "") -> None:
        self.client = client
        self.image = image
        self.cgroup_parent = cgroup_parent
        self.answers: list[str] = []
        self._names: dict[str, str] = {}

    def call(self, what: str, method: str, /, **fields: Any) -> Any:
        try:
            response = self.client.call(method, deadline=30.0, **fields)
        except grpc.RpcError as error:
            details = error.details() or ""
            for id_, name in self._names.items():
                details = details.replace(id_, f"<{name}>")
            details = LONG_ID.sub("<id>", details)
            self.answers.append(f"{what}: {method} -> {error.code().name} {details}")
            return None
        self.answers.append(f"{what}: {method} -> OK")
        return response

    def note(self, what: str, value: object) -> None:
        self.answers.append(f"{what}: {value}")

    def run_pod(self, name: str) -> str:
        id_: str = self.call("new", "RunPodSandbox", config=self.pod(name)).pod_sandbox_id
        self._names[id_] = name
        return id_

    def create(self, pod: str, name: str, command: tuple[str, ...] = SERVER) -> str:
        config = self.container(name, command)
        fields = {"config": config, "sandbox_config": self.pod("pod")}
        response = self.call(name, "CreateContainer", pod_sandbox_id=pod, **fields)
        self._names[response.container_id] = name
        return str(response.container_id)

    def pod(self, name: str) -> dict[str, Any]:
        return {
            "metadata": {"name": name, "uid": f"uid-{name}", "namespace": "test"},
            "labels": {"app": name},
            "linux": {"cgroup_parent": self.cgroup_parent},
        }

    def container(self, name: str, command: tuple[str, ...] = SERVER) -> dict[str, Any]:
        return {
            "metadata": {"name": name},
            "image": {"image": self.image},
            "command": command,
            "labels": {"name": name},
        }

    def status(self, what: str, id_: str) -> None:
        status = self.call(what, "ContainerStatus", container_id=id_).status
        state = self.client.messages.ContainerState.Name(status.state)
        times = (status.created_at > 0, status.started_at > 0, status.finished_at > 0)
        self.note(what, f"{state} {status.exit_code} {status.reason} {times}")

    def lists(self, what: str) -> None:
        """Note what the filters find."""
        filters: Iterator[tuple[str, dict[str, Any]]] = iter(
            [
                ("all", {}),
                ("exited", {"state": {"state": 2}}),
                ("label", {"label_selector": {"name": "served"}}),
                ("other label", {"label_selector": {"name": "nobody"}}),
                ("unknown id", {"id": UNKNOWN_ID}),
                ("unknown pod", {"pod_sandbox_id": UNKNOWN_ID}),
            ]
        )
        for name, wanted in filters:
            found = self.call(f"{what}, {name}", "ListContainers", filter=wanted).containers
            self.note(f"{what}, {name}", sorted(container.metadata.name for container in found))

    def walk(self) -> list[str]:
        """Go through it all and return the answers."""
        self.unknown_ids()
        self.images()
        pod = self.sandbox()
        self.created(pod)
        self.running(pod)
        self.exited(pod)
        self.lists("lists")
        self.stopped(pod)
        return self.answers

    def unknown_ids(self) -> None:
        for method in SANDBOX_CALLS:
            self.call("unknown", method, pod_sandbox_id=UNKNOWN_ID)
            self.call("empty id", method, pod_sandbox_id="")
        for method in CONTAINER_CALLS:
            self.call("unknown", method, container_id=UNKNOWN_ID)
            self.call("empty id", method, container_id="")

    def images(self) -> None:
        for what, name in (("there", self.image), ("unknown", "nope.invalid/nope:1")):
            status = self.call(what, "ImageStatus", image={"image": name})
            self.note(what, status.HasField("image"))
        self.call("unknown", "RemoveImage", image={"image": "nope.invalid/nope:1"})
        self.call("malformed", "PullImage", image={"image": "::not a name::"})
        self.call("empty", "PullImage")

    def sandbox(self) -> str:
        self.call("no config", "RunPodSandbox")
        self.call("handler", "RunPodSandbox", config=self.pod("pod"), runtime_handler="nope")
        pod = self.run_pod("pod")
        self.call("taken", "RunPodSandbox", config=self.pod("pod"))
        self.call("prefix", "PodSandboxStatus", pod_sandbox_id=pod[:20])
        self.call("no sandbox", "CreateContainer", pod_sandbox_id=UNKNOWN_ID)
        fields = {"pod_sandbox_id": pod, "sandbox_config": self.pod("pod")}
        self.call("no config", "CreateContainer", **fields)
        config = self.container("x") | {"image": {"image": "nope.invalid/x:1"}}
        self.call("no image", "CreateContainer", config=config, **fields)
        return pod

    def created(self, pod: str) -> None:
        one = self.create(pod, "created")
        fields = {"pod_sandbox_id": pod, "sandbox_config": self.pod("pod")}
        self.call("taken", "CreateContainer", config=self.container("created"), **fields)
        self.not_running("created", one)
        self.call("created", "StopContainer", container_id=one, timeout=1)
        self.status("created and stopped", one)
        self.call("created and stopped", "StartContainer", container_id=one)
        self.call("running", "RemoveContainer", container_id=one)
        self.call("again", "RemoveContainer", container_id=one)
        self.call("removed", "StopContainer", container_id=one)

    def not_running(self, what: str, one: str) -> None:
        self.call(what, "ExecSync", container_id=one, cmd=["/bin/true"])
        self.call(what, "Exec", container_id=one, cmd=["/bin/true"], stdout=True)
        self.call(what, "Attach", container_id=one, stdout=True)
        self.call(what, "ContainerStats", container_id=one)
        self.call(what, "ReopenContainerLog", container_id=one)
        limits = {"cpu_shares": 100}
        self.call(what, "UpdateContainerResources", container_id=one, linux=limits)

    def running(self, pod: str) -> None:
        one = self.create(pod, "served")
        self.call("prefix", "StartContainer", container_id=one[:20])
        self.call("running", "StartContainer", container_id=one)
        self.status("running", one)
        self.call("running", "ContainerStats", container_id=one)
        self.call("running", "ReopenContainerLog", container_id=one)
        self.call("running", "PodSandboxStats", pod_sandbox_id=pod)
        self.call("no stream", "Exec", container_id=one, cmd=["/bin/true"])
        both = {"tty": True, "stdout": True, "stderr": True}
        self.call("tty and stderr", "Exec", container_id=one, cmd=["/bin/true"], **both)
        self.call("no stream", "Attach", container_id=one)
        for command in (
            ["/bin/echo", "one", "two"],
            ["/bin/true"],
            ["/bin/false"],
            ["/bin/cat", "/nothing"],
            ["/bin/sh", "-c", "echo out; echo err >&2; exit 3"],
            ["/bin/nonesuch"],
            ["nonesuch"],
            [],
        ):
            answer = self.call(f"{command}", "ExecSync", container_id=one, cmd=command)
            if answer:
                self.note(f"{command}", (answer.stdout, answer.stderr, answer.exit_code))
        slow = {"cmd": ["/bin/sleep", "30"], "timeout": 1}
        self.call("too slow", "ExecSync", container_id=one, **slow)
        self.call("running", "StopContainer", container_id=one, timeout=10)
        self.status("heeded SIGTERM", one)
        self.call("again", "StopContainer", container_id=one, timeout=10)

    def exited(self, pod: str) -> None:
        killed = self.create(pod, "killed", ("/bin/sleep", "1000"))
        self.call("sleeper", "StartContainer", container_id=killed)
        self.call("at once", "StopContainer", container_id=killed, timeout=0)
        self.status("killed", killed)
        self.call("exited", "StartContainer", container_id=killed)
        self.not_running("exited", killed)
        for name, command in (("done", "/bin/true"), ("failed", "/bin/false")):
            one = self.create(pod, name, (command,))
            self.call(name, "StartContainer", container_id=one)
            wait_until(lambda one=one: self.has_exited(one), f"exit of {name}")  # type: ignore[misc]
            self.status(name, one)
        absent = self.create(pod, "absent", ("/nonexistent/command",))
        self.call("absent", "StartContainer", container_id=absent)
        self.status("absent", absent)

    def has_exited(self, id_: str) -> bool:
        status = self.client.call("ContainerStatus", container_id=id_).status
        return bool(status.state == self.client.messages.CONTAINER_EXITED)

    def stopped(self, pod: str) -> None:
        serving = self.create(pod, "serving")
        self.call("serving", "StartContainer", container_id=serving)
        waiting = self.create(pod, "waiting")
        self.call("running", "StopPodSandbox", pod_sandbox_id=pod[:20])
        self.call("again", "StopPodSandbox", pod_sandbox_id=pod)
        self.status("serving", serving)
        status = self.call("stopped", "PodSandboxStatus", pod_sandbox_id=pod).status
        self.note("stopped", (status.state, status.network.ip))
        self.call("pod is stopped", "StartContainer", container_id=waiting)
        self.call("stopped", "PortForward", pod_sandbox_id=pod, port=[80])
        self.call("stopped", "PodSandboxStats", pod_sandbox_id=pod)
        fields = {"config": self.container("late"), "sandbox_config": self.pod("pod")}
        self.call("pod is stopped", "CreateContainer", pod_sandbox_id=pod, **fields)
        self.call("stopped", "RemovePodSandbox", pod_sandbox_id=pod)
        self.call("again", "RemovePodSandbox", pod_sandbox_id=pod)
        self.call("removed", "PodSandboxStatus", pod_sandbox_id=pod)
        self.call("pod is removed", "ContainerStatus", container_id=serving)
        other = self.run_pod("other")
        self.call("running", "RemovePodSandbox", pod_sandbox_id=other)
        self.note("left", len(self.call("left", "ListPodSandbox").items))
