"""Makes pods on a real containerd and removes them at the end of a test."""

from typing import Any, Self

from criproxy.client import CriClient
from tests.support.containerd import Containerd
from tests.support.image import IMAGE
from tests.support.waiting import LIMIT_SECONDS


class Pods:
    """Makes pods and containers through any client; leaving it removes them.

    ``direct`` is a client of the runtime's own socket, of the same API version.
    """

    def __init__(self, runtime: Containerd, version: str = "v1") -> None:
        self.direct = CriClient(runtime.endpoint, version, timeout=LIMIT_SECONDS)
        self._cgroup_parent = runtime.cgroup_parent
        self._configs: dict[str, dict[str, Any]] = {}

    def pod(self, client: CriClient, name: str, namespace: str = "e2e", **more: Any) -> str:
        """Run a pod; ``more`` is of its PodSandboxConfig. Return its id."""
        config = {
            "metadata": {"name": name, "uid": f"uid-{name}", "namespace": namespace},
            "linux": {"cgroup_parent": self._cgroup_parent},
            **more,
        }
        made: str = client.RunPodSandbox(config=config).pod_sandbox_id
        self._configs[made] = config
        return made

    def keep(self, pod: str) -> None:
        """Remove a pod that was made elsewhere at the end of the test, too."""
        self._configs[pod] = {}

    def create(self, client: CriClient, pod: str, name: str = "main", **more: Any) -> str:
        """Create a container that sleeps, ``more`` being of its ContainerConfig. Return its id."""
        config = {"metadata": {"name": name}, "image": {"image": IMAGE}, **more}
        answer = client.CreateContainer(
            pod_sandbox_id=pod, config=config, sandbox_config=self._configs[pod]
        )
        made: str = answer.container_id
        return made

    def start(self, client: CriClient, pod: str, name: str = "main", **more: Any) -> str:
        """Create a container and start it. Return its id."""
        container = self.create(client, pod, name, **more)
        client.StartContainer(container_id=container)
        return container

    def state(self, container: str) -> str:
        """Return the name of a container's state at the runtime."""
        status = self.direct.ContainerStatus(container_id=container).status
        name: str = self.direct.messages.ContainerState.Name(status.state)
        return name.removeprefix("CONTAINER_")

    def names(self, pod: str) -> list[str]:
        """Return the names of a pod's containers at the runtime."""
        listed = self.direct.ListContainers(filter={"pod_sandbox_id": pod}).containers
        return sorted(container.metadata.name for container in listed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pod in self._configs:
            self.direct.StopPodSandbox(pod_sandbox_id=pod)
            self.direct.RemovePodSandbox(pod_sandbox_id=pod)
        self.direct.close()
