"""Decodes a call's messages and finds the call's subject: its pod, container and image."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from criproxy.cri.environment import decode_message
from criproxy.cri.messages import request_class, response_class
from criproxy.cri.methods import METHODS
from criproxy.cri.naming import MethodName
from criproxy.rules.errors import EvaluationError
from criproxy.rules.facts import Container, Pod
from criproxy.rules.messages.decompression import decompress
from criproxy.rules.pod_cache import PodCache
from criproxy.wire.reading.message_capture import CapturedMessages

_IDS: Final = frozenset({"container_id", "pod_sandbox_id"})
_CONFIGS: Final = frozenset({"PodSandboxConfig", "ContainerConfig", "ImageSpec"})
"""Messages of a request that name its subject."""

_CACHE_SIZE: Final = 256
"""Cached methods: more than the CRI has."""


@dataclass(slots=True)
class DirectionMessages:
    """The messages of one direction of a call.

    ``data`` has their bytes after decompression, ``messages`` the decoded messages. ``missing``:
    there were more, or one was too large. ``unreadable``: why one cannot be decoded, in words that
    quote nothing of it.
    """

    data: list[bytes] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    missing: bool = False
    unreadable: str = ""

    @property
    def first(self) -> Message | None:
        """The first message, which is the only one except in a server stream."""
        return self.messages[0] if self.messages else None


def decode(
    captured: CapturedMessages | None, kind: type[Message] | None, limit: int
) -> DirectionMessages:
    """Decode the captured messages of a direction, at most ``limit`` bytes. Never raises.

    ``kind`` is the messages' class, None for a method outside the CRI.
    """
    direction = DirectionMessages()
    if captured is None:
        return direction
    direction.missing = captured.cut
    for data, compressed in tuple(captured.messages):  # more may be added while the call runs
        if kind is None:
            direction.unreadable = "the method is not of the CRI"
            break
        try:
            if compressed:
                data = decompress(data, captured.encoding or None, limit)
            message = decode_message(kind, data)
        except DecodeError:
            direction.unreadable = f"not a {kind.DESCRIPTOR.name}"
            break
        except EvaluationError as error:
            if error.reason == "held_limit":
                direction.missing = True
            else:
                direction.unreadable = "the compression cannot be undone"
            break
        limit -= len(data)
        if limit < 0:
            direction.missing = True
            break
        direction.data.append(data)
        direction.messages.append(message)
    return direction


@lru_cache(_CACHE_SIZE)
def request_class_of(method_name: MethodName) -> type[Message] | None:
    """Return the class of a method's request; None outside the CRI."""
    return (
        request_class(METHODS[_path(method_name)]) if method_name.api_version is not None else None
    )


@lru_cache(_CACHE_SIZE)
def response_class_of(method_name: MethodName) -> type[Message] | None:
    """Return the class of a method's responses; None outside the CRI."""
    return (
        response_class(METHODS[_path(method_name)]) if method_name.api_version is not None else None
    )


@lru_cache(_CACHE_SIZE)
def has_subject(method_name: MethodName) -> bool:
    """Return whether a method's request names a pod, container or image."""
    kind = request_class_of(method_name)
    if kind is None:
        return False
    return any(
        each.name in _IDS or (each.message_type is not None and each.message_type.name in _CONFIGS)
        for each in cast(Descriptor, kind.DESCRIPTOR).fields
    )


@lru_cache(_CACHE_SIZE)
def has_exit_code(method_name: MethodName) -> bool:
    """Return whether a method's response has the exit code of a command: ExecSync's."""
    kind = response_class_of(method_name)
    return kind is not None and "exit_code" in cast(Descriptor, kind.DESCRIPTOR).fields_by_name


def _path(method_name: MethodName) -> str:
    return f"/{method_name.service}/{method_name.method}"


@dataclass(frozen=True, slots=True)
class CallSubject:
    """The known pod, container and image of a call; unknown ids are empty."""

    pod: Pod | None = None
    container: Container | None = None
    pod_id: str = ""
    container_id: str = ""
    image: str = ""

    def fields(self) -> dict[str, Any]:
        """Return a record's fields for the subject."""
        fields: dict[str, Any] = {}
        pod, container = self.pod, self.container
        if pod is not None:
            fields["pod"] = _non_empty(
                id=self.pod_id, namespace=pod.namespace, name=pod.name, uid=pod.uid
            )
        elif self.pod_id:
            fields["pod"] = {"id": self.pod_id}
        if container is not None:
            fields["container"] = _non_empty(
                id=self.container_id, name=container.name, image=container.image
            )
        elif self.container_id:
            fields["container"] = {"id": self.container_id}
        if self.image:
            fields["image"] = self.image
        return {key: value for key, value in fields.items() if value}

    def flat_fields(self) -> dict[str, str]:
        """Return the fields of a log line for the subject, by the columns of ``audit query``."""
        pod, container = self.pod, self.container
        return _non_empty(
            namespace=pod.namespace if pod else "",
            pod=pod.name if pod else "",
            pod_uid=pod.uid if pod else "",
            pod_id=self.pod_id,
            container=container.name if container else "",
            container_id=self.container_id,
            image=self.image,
        )


def subject_of(
    method_name: MethodName,
    request: Message | None,
    response: Message | None,
    pod_cache: PodCache,
    trusted: bool,
) -> CallSubject:
    """Return the subject of a call. ``trusted``: whether the caller is the kubelet.

    ``response`` is that of a call that returned a new id, None for any other. Ids that the pod
    cache does not know are taken from the request.
    """
    if request is None or not has_subject(method_name):
        return CallSubject()
    pod, container = pod_cache.find(method_name, request, trusted)
    return CallSubject(
        pod=pod,
        container=container,
        pod_id=(pod.id if pod else "")
        or (container.pod_id if container else "")
        or _text(request, "pod_sandbox_id")
        or _text(response, "pod_sandbox_id"),
        container_id=(container.id if container else "")
        or _text(request, "container_id")
        or _text(response, "container_id"),
        image=pod_cache.image_name(request, container, trusted),
    )


def _text(message: Message | None, name: str) -> str:
    value = getattr(message, name, "")
    return value if isinstance(value, str) else ""


def _non_empty(**fields: str) -> dict[str, str]:
    return {key: value for key, value in fields.items() if value}
