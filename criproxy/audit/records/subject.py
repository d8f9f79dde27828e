"""What a call is about: its messages, read, and the pod, the container and the image in them."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

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
"""Messages of a request that say what it is about."""

_KINDS: Final = 256
"""Methods whose message classes are remembered: more than the CRI has."""


@dataclass(slots=True)
class DirectionMessages:
    """The messages of one direction of a call.

    ``data`` has their bytes without compression, ``messages`` what they say. ``missing`` tells that
    there were more, or one that was too large; ``unreadable`` why one cannot be read, in words that
    hold nothing of it.
    """

    data: list[bytes] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    missing: bool = False
    unreadable: str = ""

    @property
    def first(self) -> Message | None:
        """The first message: the only one, but for a server stream's responses."""
        return self.messages[0] if self.messages else None


def read(
    kept: CapturedMessages | None, kind: type[Message] | None, limit: int
) -> DirectionMessages:
    """Read what was kept of a direction, ``limit`` bytes at most. Never raises.

    ``kind`` is the messages' class, None for a method that is not of the CRI.
    """
    half = DirectionMessages()
    if kept is None:
        return half
    half.missing = kept.cut
    for data, compressed in tuple(kept.messages):  # of a call that runs, there may be more soon
        if kind is None:
            half.unreadable = "the method is not of the CRI"
            break
        try:
            if compressed:
                data = decompress(data, kept.encoding or None, limit)
            message = kind.FromString(data)
        except DecodeError:
            half.unreadable = f"not a {kind.DESCRIPTOR.name}"
            break
        except EvaluationError as error:
            if error.reason == "held_limit":
                half.missing = True
            else:
                half.unreadable = "the compression cannot be undone"
            break
        limit -= len(data)
        if limit < 0:
            half.missing = True
            break
        half.data.append(data)
        half.messages.append(message)
    return half


@lru_cache(_KINDS)
def request_kind(named: MethodName) -> type[Message] | None:
    """Return the class of a method's request; None outside the CRI."""
    return request_class(METHODS[_path(named)]) if named.api_version is not None else None


@lru_cache(_KINDS)
def response_kind(named: MethodName) -> type[Message] | None:
    """Return the class of a method's responses; None outside the CRI."""
    return response_class(METHODS[_path(named)]) if named.api_version is not None else None


@lru_cache(_KINDS)
def names_something(named: MethodName) -> bool:
    """Tell whether a method's request says which pod, container or image it is about."""
    kind = request_kind(named)
    if kind is None:
        return False
    return any(
        each.name in _IDS or (each.message_type is not None and each.message_type.name in _CONFIGS)
        for each in cast(Descriptor, kind.DESCRIPTOR).fields
    )


def _path(named: MethodName) -> str:
    return f"/{named.service}/{named.method}"


@dataclass(frozen=True, slots=True)
class CallSubject:
    """What a call is about, as far as it is known; an id that is not is empty."""

    pod: Pod | None = None
    container: Container | None = None
    pod_id: str = ""
    container_id: str = ""
    image: str = ""

    def fields(self) -> dict[str, Any]:
        """Return what a record says of it."""
        told: dict[str, Any] = {}
        pod, container = self.pod, self.container
        if pod is not None:
            told["pod"] = _given(
                id=self.pod_id, namespace=pod.namespace, name=pod.name, uid=pod.uid
            )
        elif self.pod_id:
            told["pod"] = {"id": self.pod_id}
        if container is not None:
            told["container"] = _given(
                id=self.container_id, name=container.name, image=container.image
            )
        elif self.container_id:
            told["container"] = {"id": self.container_id}
        if self.image:
            told["image"] = self.image
        return {key: value for key, value in told.items() if value}


def subject_of(
    named: MethodName, request: Message | None, response: Message | None, memory: PodCache
) -> CallSubject:
    """Tell what a call is about.

    ``response`` is that of a call that gave out an id, None for any other. An id that is not known
    is told as the request has it.
    """
    if request is None or not names_something(named):
        return CallSubject()
    pod, container = memory.find(named, request)
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
        image=_image(request) or (container.image if container else ""),
    )


def _text(message: Message | None, name: str) -> str:
    value = getattr(message, name, "")
    return value if isinstance(value, str) else ""


def _image(request: Any) -> str:
    """Return the image that a request names."""
    spec = getattr(request, "image", None) or getattr(
        getattr(request, "config", None), "image", None
    )
    return _text(spec, "image")


def _given(**fields: str) -> dict[str, str]:
    return {key: value for key, value in fields.items() if value}
