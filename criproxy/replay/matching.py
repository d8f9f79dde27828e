"""The fields of requests by which a recorded call answers a request.

All fields of ``REQUIRED`` have to be equal; of the calls that remain, those with equal
``PREFERRED`` fields are taken, if there are any. All other fields may differ. Requests of both API
versions are compared as those of v1.
"""

from collections.abc import Hashable, Mapping
from typing import Any, Final

from google.protobuf.message import Message

from criproxy.cri.messages import request_class, response_class
from criproxy.cri.methods import METHODS, Method

_CONTAINER: Final = ("container_id",)
_POD: Final = ("pod_sandbox_id",)
_IMAGE: Final = ("image.image",)
_FILTER: Final = ("filter",)

REQUIRED: Final[Mapping[str, tuple[str, ...]]] = {
    "Attach": _CONTAINER,
    "CheckpointContainer": _CONTAINER,
    "CheckpointPod": _POD,
    "ContainerStats": _CONTAINER,
    "ContainerStatus": _CONTAINER,
    "CreateContainer": ("pod_sandbox_id", "config.metadata.name"),
    "Exec": ("container_id", "cmd"),
    "ExecSync": ("container_id", "cmd"),
    "ImageStatus": _IMAGE,
    "ListContainerStats": _FILTER,
    "ListContainers": _FILTER,
    "ListImages": _FILTER,
    "ListPodSandbox": _FILTER,
    "ListPodSandboxStats": _FILTER,
    "PodSandboxStats": _POD,
    "PodSandboxStatus": _POD,
    "PortForward": _POD,
    "PullImage": _IMAGE,
    "RemoveContainer": _CONTAINER,
    "RemoveImage": _IMAGE,
    "RemovePodSandbox": _POD,
    "ReopenContainerLog": _CONTAINER,
    "RestorePod": ("checkpoint_path",),
    "RunPodSandbox": ("config.metadata.namespace", "config.metadata.name"),
    "StartContainer": _CONTAINER,
    "StopContainer": _CONTAINER,
    "StopPodSandbox": _POD,
    "StreamContainerStats": _FILTER,
    "StreamContainers": _FILTER,
    "StreamImages": _FILTER,
    "StreamPodSandboxStats": _FILTER,
    "StreamPodSandboxes": _FILTER,
    "UpdateContainerResources": _CONTAINER,
    "UpdatePodSandboxResources": _POD,
}
"""The fields that have to be equal, by method. Of other methods all requests are alike."""

PREFERRED: Final[Mapping[str, tuple[str, ...]]] = {
    "ContainerStatus": ("verbose",),
    "CreateContainer": ("config.metadata.attempt", "config.image.image"),
    "ImageStatus": ("verbose",),
    "PodSandboxStatus": ("verbose",),
    "RunPodSandbox": ("config.metadata.attempt", "runtime_handler"),
    "Status": ("verbose",),
}
"""The fields by which recorded calls are preferred, by method."""

Key = tuple[Hashable, ...]


def in_v1(method: Method) -> Method:
    """Return the method of v1; v1 has all methods of v1alpha2, and its messages have all fields."""
    return METHODS[method.path.replace("/runtime.v1alpha2.", "/runtime.v1.")]


def parse_request(method: Method, data: bytes) -> Message:
    """Parse a request of either version as v1's. Raises DecodeError."""
    return request_class(in_v1(method)).FromString(data)


def parse_response(method: Method, data: bytes) -> Message:
    """Parse a response of either version as v1's. Raises DecodeError."""
    return response_class(in_v1(method)).FromString(data)


def required_key(method: Method, request: Message) -> Key:
    """Return the values of the fields that have to be equal."""
    return tuple(_value(request, path) for path in REQUIRED.get(method.name, ()))


def preferred_key(method: Method, request: Message) -> Key:
    """Return the values of the fields by which recorded calls are preferred."""
    return tuple(_value(request, path) for path in PREFERRED.get(method.name, ()))


def describe(method: Method, key: Key) -> str:
    """Return a required key in words: ``container_id "abc", cmd ["true"]``."""
    names = REQUIRED.get(method.name, ())
    return ", ".join(f"{name} {_shown(value)}" for name, value in zip(names, key, strict=True))


def _value(message: Message, path: str) -> Hashable:
    value: Any = message
    for name in path.split("."):
        value = getattr(value, name)
    if isinstance(value, Message):
        return value.SerializeToString(deterministic=True)
    if isinstance(value, str | int | bool):
        return value
    return tuple(value)


def _shown(value: Hashable) -> str:
    if isinstance(value, bytes):
        return "of that kind" if value else "(none)"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return repr(value)
