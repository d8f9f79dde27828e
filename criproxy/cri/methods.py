"""The table of the CRI's methods, of both API versions, by path.

The table is written out because reading the descriptors would load protobuf, whose memory a daemon
without rules does not need. A test compares the table with the descriptors.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

READS: Final = frozenset(
    {
        "ContainerStats",
        "ContainerStatus",
        "GetContainerEvents",
        "ImageFsInfo",
        "ImageStatus",
        "ListContainerStats",
        "ListContainers",
        "ListImages",
        "ListMetricDescriptors",
        "ListPodSandbox",
        "ListPodSandboxMetrics",
        "ListPodSandboxStats",
        "PodSandboxStats",
        "PodSandboxStatus",
        "RuntimeConfig",
        "Status",
        "StreamContainerStats",
        "StreamContainers",
        "StreamImages",
        "StreamPodSandboxMetrics",
        "StreamPodSandboxStats",
        "StreamPodSandboxes",
        "Version",
    }
)
"""The methods that change nothing. All other methods count as mutating, including methods of a
future API version, until they are added here."""

SERVER_STREAMING: Final = frozenset(
    {
        "GetContainerEvents",
        "StreamContainerStats",
        "StreamContainers",
        "StreamImages",
        "StreamPodSandboxMetrics",
        "StreamPodSandboxStats",
        "StreamPodSandboxes",
    }
)
"""The methods whose response is a stream of messages. No CRI method is client-streaming."""

FALLBACKS: Final[Mapping[str, frozenset[str]]] = {
    "GetContainerEvents": frozenset({"ListContainers", "ListPodSandbox"}),
    "ListPodSandboxStats": frozenset({"ListContainerStats", "ListContainers", "ListPodSandbox"}),
    "RuntimeConfig": frozenset(),
    "StreamContainerStats": frozenset({"ListContainerStats"}),
    "StreamContainers": frozenset({"ListContainers"}),
    "StreamImages": frozenset({"ListImages"}),
    "StreamPodSandboxMetrics": frozenset({"ListPodSandboxMetrics"}),
    "StreamPodSandboxStats": frozenset({"ListPodSandboxStats"}),
    "StreamPodSandboxes": frozenset({"ListPodSandbox"}),
    "UpdatePodSandboxResources": frozenset({"UpdateContainerResources"}),
}
"""The methods that kubelets and crictl do without where a runtime answers UNIMPLEMENTED, and on
that code alone; and the methods that they use instead. Without RuntimeConfig, a kubelet uses the
cgroup driver of its configuration."""

ENDLESS: Final = frozenset({b"GetContainerEvents"})
"""The streaming methods whose stream lasts until a side ends it, as they are written in a path."""

_RUNTIME_BOTH: Final = (
    "Version",
    "RunPodSandbox",
    "StopPodSandbox",
    "RemovePodSandbox",
    "PodSandboxStatus",
    "ListPodSandbox",
    "CreateContainer",
    "StartContainer",
    "StopContainer",
    "RemoveContainer",
    "ListContainers",
    "ContainerStatus",
    "UpdateContainerResources",
    "ReopenContainerLog",
    "ExecSync",
    "Exec",
    "Attach",
    "PortForward",
    "ContainerStats",
    "ListContainerStats",
    "PodSandboxStats",
    "ListPodSandboxStats",
    "UpdateRuntimeConfig",
    "Status",
)
_RUNTIME_V1: Final = (
    "StreamPodSandboxes",
    "StreamContainers",
    "StreamContainerStats",
    "StreamPodSandboxStats",
    "CheckpointContainer",
    "CheckpointPod",
    "RestorePod",
    "GetContainerEvents",
    "ListMetricDescriptors",
    "ListPodSandboxMetrics",
    "StreamPodSandboxMetrics",
    "RuntimeConfig",
    "UpdatePodSandboxResources",
)
_IMAGE_BOTH: Final = ("ListImages", "ImageStatus", "PullImage", "RemoveImage", "ImageFsInfo")
_IMAGE_V1: Final = ("StreamImages",)

_SERVICES: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("v1", "RuntimeService"): _RUNTIME_BOTH + _RUNTIME_V1,
    ("v1", "ImageService"): _IMAGE_BOTH + _IMAGE_V1,
    ("v1alpha2", "RuntimeService"): _RUNTIME_BOTH,
    ("v1alpha2", "ImageService"): _IMAGE_BOTH,
}


@dataclass(frozen=True, slots=True)
class Method:
    """One method of one version of the API.

    ``service`` is the full name, ``runtime.v1.RuntimeService``; ``api_version`` is ``v1`` or
    ``v1alpha2``; ``mutating`` is true if a call may change the runtime's state or run a command.
    """

    service: str
    name: str
    api_version: str
    server_streaming: bool
    mutating: bool

    @property
    def path(self) -> str:
        """The HTTP/2 ``:path`` of a call: ``/runtime.v1.RuntimeService/Version``."""
        return f"/{self.service}/{self.name}"


def _methods() -> Iterator[Method]:
    for (version, service), names in _SERVICES.items():
        for name in names:
            yield Method(
                service=f"runtime.{version}.{service}",
                name=name,
                api_version=version,
                server_streaming=name in SERVER_STREAMING,
                mutating=name not in READS,
            )


METHODS: Final[Mapping[str, Method]] = {method.path: method for method in _methods()}
"""Every method by its path. ``METHODS.get(path)`` is None for a path outside the CRI."""
