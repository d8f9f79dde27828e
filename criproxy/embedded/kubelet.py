"""A client that behaves like a kubelet: it relists, runs pods, watches them and stops them.

It is the load of the demo and of tests. On a real runtime it uses an existing image and, where no
other network is ready, the host's. It labels all that it creates, and removes it again.
"""

import itertools
import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Self, TypeAlias

import grpc

from criproxy.client import CriClient
from criproxy.errors import UnavailableError
from criproxy.relay.endpoints import Endpoint

LABEL: Final = "criproxy.dev/run"
"""Label of everything that a run creates; its value is the run's id."""
NAMESPACE: Final = "criproxy-demo"
STATS_EVERY: Final = 5
"""Number of relists between two requests for stats and status."""
STOP_GRACE: Final = 2
"""Seconds that a container has to stop."""
CALL_TIMEOUT: Final = 120.0
"""Seconds, the kubelet's runtime request timeout."""
END_TIMEOUT: Final = 10.0
"""Seconds that calls in flight have to return at the end of a run; then they are cancelled."""
RETRY_SECONDS: Final = 1.0
LIFETIMES: Final = (1.0, 4.0)
"""Minimum and maximum running time of a pod, in seconds."""
CLEANUP_ROUNDS: Final = 3
"""Maximum number of cleanup passes: a cancelled call may still have created something."""

OnCall: TypeAlias = Callable[[str, str, str, float], None]
"""Called when a call ends: method, pod's name (or empty), gRPC code's name, seconds."""


class _EndedError(grpc.RpcError):
    """A call that was not made because the run has ended."""


def present_image(images: Any, endpoint: Endpoint) -> str:
    """Return an image that a runtime has, by its response to ListImages: the pause image if it can.

    Raises UnavailableError, which names the endpoint, when there is none.
    """
    names: list[str] = [tag for image in images.images for tag in image.repo_tags]
    if not names:
        raise UnavailableError(f"{endpoint}: the runtime has no image; name one with --image")
    return min(names, key=lambda name: ("/pause:" not in name, name))


class Kubelet:
    """A kubelet-like client of one endpoint.

    ::

        with Kubelet("unix:///run/criproxy/criproxy.sock", on_call=show) as kubelet:
            kubelet.run(threading.Event(), seconds=20)

    ``on_call`` is called from several threads, one at a time. ``image`` is pulled if it is missing;
    the default is one that the runtime has, preferably the pause image. ``command`` replaces the
    image's own, ``probe`` is executed in each container. ``pods`` is the number of concurrent pods,
    ``relist`` the interval in seconds, ``cgroup_parent`` that of the sandboxes.

    Leaving the block removes everything that the run created, also after an exception.
    """

    def __init__(
        self,
        endpoint: str | Endpoint,
        *,
        on_call: OnCall,
        image: str | None = None,
        command: Sequence[str] = (),
        probe: Sequence[str] = (),
        pods: int = 3,
        relist: float = 1.0,
        cgroup_parent: str = "",
        api_version: str = "v1",
    ) -> None:
        self.run_id = uuid.uuid4().hex[:12]
        self._client = CriClient(endpoint, api_version, timeout=CALL_TIMEOUT)
        self._on_call = on_call
        self._image = image or ""
        self._command = list(command)
        self._probe = list(probe)
        self._pods = pods
        self._relist = relist
        self._cgroup_parent = cgroup_parent
        self._host_network = False
        self._pulled = False
        self._started = False
        self._stop = threading.Event()
        self._report_lock = threading.Lock()
        self._numbers = itertools.count()

    def run(self, stop: threading.Event, seconds: float | None = None) -> None:
        """Run until ``stop`` is set or ``seconds`` have passed; calls in flight then end.

        Raises UnavailableError when the endpoint is not a usable runtime at the start. Later
        failures are reported as calls and retried.
        """
        try:
            self._begin()
        except grpc.RpcError as error:
            raise UnavailableError(
                f"{self._client.endpoint}: {error.code().name}: {error.details()}"
            ) from error
        self._started = True
        watcher = threading.Thread(target=self._watch_events)
        jobs = [self._relist_loop, *[self._pod_loop] * self._pods]
        threads = [watcher, *(threading.Thread(target=job) for job in jobs)]
        for thread in threads:
            thread.start()
        try:
            stop.wait(seconds)
        finally:
            self._end(threads, watcher)

    def cleanup(self) -> None:
        """Remove every container and sandbox with the run's label, and a pulled image.

        Uses its own connection. A failed call is reported and skipped. Raises UnavailableError
        when something is left at the end.
        """
        self._client.close()
        if not (self._started or self._pulled):
            return
        with CriClient(self._client.endpoint, self._client.api_version, CALL_TIMEOUT) as client:
            self._client = client
            for _ in range(CLEANUP_ROUNDS):
                left = self._remove_all()
                if not left:
                    break
            if self._pulled:
                with suppress(grpc.RpcError):
                    self._call("RemoveImage", image={"image": self._image})
        if left:
            raise UnavailableError(
                f"{client.endpoint}: not all was removed; what is left has the label "
                f"{LABEL}={self.run_id}"
            )

    def sandbox_config(self, pod: str) -> dict[str, Any]:
        """Return the configuration of a pod sandbox; once the run has begun."""
        linux: dict[str, Any] = {"cgroup_parent": self._cgroup_parent}
        if self._host_network:
            node = self._client.messages.NODE
            linux["security_context"] = {"namespace_options": {"network": node}}
        return {
            "metadata": {
                "name": pod,
                "uid": f"{self.run_id}-{pod}",
                "namespace": NAMESPACE,
            },
            "hostname": "" if self._host_network else pod,
            "labels": {LABEL: self.run_id, "io.kubernetes.pod.name": pod},
            "linux": linux,
        }

    def container_config(self) -> dict[str, Any]:
        """Return the configuration of a container; once the run has begun."""
        return {
            "metadata": {"name": "main"},
            "image": {"image": self._image},
            "command": self._command,
            "labels": {LABEL: self.run_id},
            "linux": {},
        }

    def _begin(self) -> None:
        self._call("Version")
        status = self._call("Status").status
        self._host_network = not all(
            condition.status for condition in status.conditions if condition.type == "NetworkReady"
        )
        if not self._image:
            self._image = present_image(self._call("ListImages"), self._client.endpoint)
        image = {"image": self._image}
        if not self._call("ImageStatus", image=image).HasField("image"):
            self._call("PullImage", image=image)
            self._pulled = True

    def _relist_loop(self) -> None:
        count = 0
        while not self._stop.wait(self._relist if count else 0):
            with suppress(grpc.RpcError):
                self._call("ListPodSandbox")
                self._call("ListContainers")
                if count % STATS_EVERY == 0:
                    self._call("Status")
                    self._call("ListContainerStats")
                    self._call("ImageFsInfo")
            count += 1

    def _watch_events(self) -> None:
        if self._client.api_version != "v1":
            return
        while not self._stop.is_set():
            began = time.monotonic()
            code = grpc.StatusCode.OK
            try:
                for _ in self._client.call("GetContainerEvents"):
                    pass
            except grpc.RpcError as error:
                code = error.code()
            if not self._stop.is_set():
                self._report_call("GetContainerEvents", "", code.name, began)
            if code is grpc.StatusCode.UNIMPLEMENTED:
                return
            self._stop.wait(RETRY_SECONDS)

    def _pod_loop(self) -> None:
        while not self._stop.is_set():
            try:
                self._run_pod(f"demo-{next(self._numbers)}")
            except grpc.RpcError:
                # What is left of the pod is removed at the end of the run.
                self._stop.wait(RETRY_SECONDS)

    def _run_pod(self, pod: str) -> None:
        """Run one pod's life cycle as a kubelet does."""
        config = self.sandbox_config(pod)
        sandbox = self._call("RunPodSandbox", pod, config=config).pod_sandbox_id
        self._call("PodSandboxStatus", pod, pod_sandbox_id=sandbox)
        self._call("ImageStatus", pod, image={"image": self._image})
        container = self._call(
            "CreateContainer",
            pod,
            pod_sandbox_id=sandbox,
            config=self.container_config(),
            sandbox_config=config,
        ).container_id
        self._call("StartContainer", pod, container_id=container)
        self._call("ContainerStatus", pod, container_id=container)
        self._call("ContainerStats", pod, container_id=container)
        if self._probe:
            self._call("ExecSync", pod, container_id=container, cmd=self._probe, timeout=10)
        self._stop.wait(random.uniform(*LIFETIMES))  # noqa: S311  # spread, not secrecy
        self._call("StopContainer", pod, container_id=container, timeout=STOP_GRACE)
        self._call("ContainerStatus", pod, container_id=container)
        self._call("StopPodSandbox", pod, pod_sandbox_id=sandbox)
        self._call("RemoveContainer", pod, container_id=container)
        self._call("RemovePodSandbox", pod, pod_sandbox_id=sandbox)

    def _end(self, threads: Sequence[threading.Thread], watcher: threading.Thread) -> None:
        self._stop.set()
        limit = time.monotonic() + END_TIMEOUT
        # The event stream may wait without end: closing the connection cancels it.
        for thread in threads:
            if thread is not watcher:
                thread.join(max(0.0, limit - time.monotonic()))
        self._client.close()
        for thread in threads:
            thread.join()

    def _remove_all(self) -> bool:
        """Remove everything with the run's label; return whether anything may be left."""
        mine = {"label_selector": {LABEL: self.run_id}}
        failed = False
        try:
            containers = self._call("ListContainers", filter=mine).containers
            sandboxes = self._call("ListPodSandbox", filter=mine).items
        except grpc.RpcError:
            return True
        for container in containers:
            failed |= self._failed("StopContainer", container_id=container.id, timeout=STOP_GRACE)
            failed |= self._failed("RemoveContainer", container_id=container.id)
        for sandbox in sandboxes:
            pod = sandbox.metadata.name
            failed |= self._failed("StopPodSandbox", pod, pod_sandbox_id=sandbox.id)
            failed |= self._failed("RemovePodSandbox", pod, pod_sandbox_id=sandbox.id)
        return failed

    def _failed(self, method: str, pod: str = "", **fields: Any) -> bool:
        try:
            self._call(method, pod, **fields)
        except grpc.RpcError:
            return True
        return False

    def _call(self, method: str, pod: str = "", **fields: Any) -> Any:
        """Make a call and report it. Every unary call of the kubelet goes through here."""
        began = time.monotonic()
        code = grpc.StatusCode.OK.name
        try:
            return self._client.call(method, **fields)
        except grpc.RpcError as error:
            code = error.code().name
            raise
        except ValueError:
            # grpcio raises it for a call on a closed channel, too.
            if not self._stop.is_set():
                raise
            code = grpc.StatusCode.CANCELLED.name
            raise _EndedError from None
        finally:
            self._report_call(method, pod, code, began)

    def _report_call(self, method: str, pod: str, code: str, began: float) -> None:
        seconds = time.monotonic() - began
        with self._report_lock:
            self._on_call(method, pod, code, seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cleanup()
