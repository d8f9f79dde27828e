"""A pod's life as a kubelet-like client sees it, recorded and replayed."""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import grpc

from criproxy.client import CriClient
from tests.support.process import Process
from tests.support.waiting import LIMIT_SECONDS, wait_until

IMAGE = "registry.example/app:1"


class Replay:
    """``criproxy replay --as-runtime`` in a directory, a context manager."""

    def __init__(self, directory: Path, file: Path, *options: str) -> None:
        self.endpoint = f"unix://{directory}/replay.sock"
        command = [sys.executable, "-m", "criproxy", "replay", str(file)]
        command += ["--as-runtime", self.endpoint, *options]
        self.process = Process(command, output=directory / "replay.log")

    def __enter__(self) -> Self:
        self.process.start()
        wait_until(lambda: "replaying" in self.process.stdout, "a replay")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()


class Life:
    """The calls of a pod's life, whose answers are kept."""

    def __init__(self, endpoint: str, version: str = "v1") -> None:
        self.client = CriClient(endpoint, version, timeout=LIMIT_SECONDS)
        self.answers: list[tuple[str, str, Any]] = []
        """Of each call its method, code, and response or details."""
        self.sandbox = self.container = ""

    def call(self, method: str, **fields: Any) -> Any:
        try:
            response = self.client.call(method, **fields)
        except grpc.RpcError as error:
            self.answers.append((method, error.code().name, error.details()))
            return None
        self.answers.append((method, "OK", response))
        return response

    def config(self, name: str, uid: str) -> dict[str, Any]:
        return {
            "metadata": {"name": name, "uid": uid, "namespace": "shop", "attempt": 0},
            "labels": {"io.kubernetes.pod.uid": uid, "app": name},
        }

    def live(self, name: str = "web", uid: str = "uid-recorded") -> None:
        """Make a pod with one container, look at it after each step, and remove it."""
        self.call("Version")
        self.call("Status", verbose=True)
        self.call("ListPodSandbox")
        self.call("PullImage", image={"image": IMAGE})
        config = self.config(name, uid)
        self.sandbox = self.call("RunPodSandbox", config=config).pod_sandbox_id
        self.look()
        container = {"metadata": {"name": "main"}, "image": {"image": IMAGE}}
        self.container = self.call(
            "CreateContainer", pod_sandbox_id=self.sandbox, config=container, sandbox_config=config
        ).container_id
        for method in ("StartContainer", "StopContainer", "RemoveContainer"):
            self.look()
            self.call(method, container_id=self.container)
        self.look()
        self.call("StopPodSandbox", pod_sandbox_id=self.sandbox)
        self.look()
        self.call("RemovePodSandbox", pod_sandbox_id=self.sandbox)
        self.look()

    def look(self) -> None:
        self.call("PodSandboxStatus", pod_sandbox_id=self.sandbox)
        self.call("ListPodSandbox")
        self.call("ListContainers")
        if self.container:
            self.call("ContainerStatus", container_id=self.container)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()


@contextmanager
def events_of(client: CriClient) -> Iterator[Sequence[tuple[str, int]]]:
    """The events that a client is sent: the id and the type of each."""
    seen: list[tuple[str, int]] = []
    stream = client.GetContainerEvents()
    stream.initial_metadata()

    def read() -> None:
        try:
            for event in stream:
                seen.append((event.container_id, event.container_event_type))
        except grpc.RpcError:
            pass

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield seen
    finally:
        stream.cancel()
        thread.join()
