"""Sandboxes, containers and images of the embedded runtime.

Configurations are kept as v1 messages: no field is copied by hand. Times are nanoseconds since
1970, 0 for not yet, as in the CRI.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from criproxy.cri.pb import runtime_v1_pb2 as v1

KILLED: Final = 137
"""Exit code of a process that SIGKILL ended: 128 + 9."""
START_ERROR: Final = 128
"""Exit code of a container that could not be started, as in containerd."""


@dataclass(slots=True)
class Sandbox:
    """A pod sandbox. ``ip`` is empty on the host's network and once it is stopped.

    ``containers`` are its containers by id, oldest first.
    """

    id: str
    config: v1.PodSandboxConfig
    runtime_handler: str
    created_at: int
    pid: int
    ip: str
    ready: bool = True
    containers: dict[str, "Container"] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name that containerd reserves: no two sandboxes may have the same."""
        metadata = self.config.metadata
        return f"{metadata.name}_{metadata.namespace}_{metadata.uid}_{metadata.attempt}"


@dataclass(slots=True)
class Container:
    """A container. ``exited`` is set once its process has ended."""

    id: str
    sandbox: Sandbox
    config: v1.ContainerConfig
    image_id: str
    log_path: str
    created_at: int
    resources: v1.LinuxContainerResources
    state: v1.ContainerState = v1.CONTAINER_CREATED
    pid: int = 0
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    exited: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        """The name that containerd reserves: no two containers may have the same."""
        metadata, pod = self.config.metadata, self.sandbox.config.metadata
        return f"{metadata.name}_{pod.name}_{pod.namespace}_{pod.uid}_{metadata.attempt}"

    @property
    def state_name(self) -> str:
        """The state as error texts spell it: CONTAINER_RUNNING."""
        return v1.ContainerState.Name(self.state)


@dataclass(slots=True)
class Image:
    """An image: ``id`` and ``digest`` as ``sha256:<64 hex digits>``, ``size`` in bytes."""

    id: str
    digest: str
    size: int
    repo_tags: list[str]
    repo_digests: list[str]
    pinned: bool = False
