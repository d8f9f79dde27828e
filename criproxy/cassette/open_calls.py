"""Follows the records of a cassette: which calls are in flight, and what they are about."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal

from google.protobuf.message import DecodeError, Message
from msgspec.structs import replace

from criproxy.audit.records.subject import (
    CallSubject,
    request_class_of,
    response_class_of,
    subject_of,
)
from criproxy.cassette.records import (
    AnyRecord,
    CallBegan,
    CallEnded,
    ConnectionClosed,
    ConnectionOpened,
    MessagePassed,
)
from criproxy.cri.environment import decode_message
from criproxy.cri.naming import MethodName, resolve
from criproxy.rules.errors import EvaluationError
from criproxy.rules.pod_cache import PodCache

KEPT_BYTES: Final = 64 << 20
"""Bytes of messages that are kept of all calls in flight: a client can have thousands, with 16 MiB
each. Beyond it, it is not known what a call is about."""

_LISTINGS: Final[Mapping[str, Literal["pods", "containers", "images"]]] = {
    "ListPodSandbox": "pods",
    "StreamPodSandboxes": "pods",
    "ListContainers": "containers",
    "StreamContainers": "containers",
    "ListImages": "images",
    "StreamImages": "images",
}
"""What the methods list by which names are learned; their responses have the same encoding."""


@dataclass(slots=True, eq=False)
class OpenCall:
    """A call in flight; it keeps its request, and its response unless that is a stream of other
    things than what is there."""

    began: CallBegan
    path: bytes
    method: MethodName
    request: MessagePassed | None = None
    response: bytearray = field(default_factory=bytearray)
    responses: int = 0
    kept: int = 0
    """Bytes of messages."""


class OpenCalls:
    """The connections and calls in flight, and the names of pods and containers so far."""

    def __init__(self, kept_bytes: int = KEPT_BYTES, *, responses: bool = True) -> None:
        """``kept_bytes``: of messages. ``responses``: whether they are kept beside requests."""
        self.calls: dict[int, OpenCall] = {}
        """The calls in flight, by their numbers, in the order in which they began."""
        self.connections: dict[int, ConnectionOpened] = {}
        """The connections that are open, by their numbers."""
        self._pods = PodCache(short_names=None)
        self._left = kept_bytes
        self._responses = responses

    def follow(self, record: AnyRecord) -> OpenCall | None:
        """Take the next record; return the call that it is about, also when it ends the call."""
        if isinstance(record, ConnectionOpened):
            self.connections[record.connection] = record
        elif isinstance(record, ConnectionClosed):
            self.connections.pop(record.connection, None)
        elif isinstance(record, CallBegan):
            path = record.path.encode("latin-1", "replace")
            call = self.calls[record.call] = OpenCall(record, path, resolve(path))
            return call
        elif isinstance(record, MessagePassed):
            return self._message(record)
        elif isinstance(record, CallEnded):
            ended = self.calls.pop(record.call, None)
            if ended is not None:
                self._left += ended.kept
            return ended
        return None

    def subject(self, call: OpenCall, end: CallEnded | None = None) -> CallSubject:
        """Return what a call is about, as far as it is known; with its ``end``, also the id of what
        it has created.
        """
        if call.request is None:
            return CallSubject()
        request = _decoded(request_class_of(call.method), call.request.data)
        response = None
        if end is not None and end.code == "OK" and self._pods.wants(call.path):
            response = _decoded(response_class_of(call.method), bytes(call.response))
        connection = self.connections.get(call.began.connection)
        is_kubelet = connection is not None and connection.kubelet
        return subject_of(call.method, request, response, self._pods, is_kubelet)

    def learn(self, call: OpenCall, end: CallEnded) -> None:
        """Learn names from a call that has ended: after its subject was asked for, so that a
        removed pod still has its name. Listings name what is older than the recording."""
        if end.code != "OK" or call.request is None or call.request.missing:
            return
        with suppress(EvaluationError):
            listed = _LISTINGS.get(call.method.method) if call.method.api_version else None
            response = bytes(call.response)
            if listed is not None:
                self._pods.add_listing(**{listed: response})
            else:
                self._pods.update(call.path, call.request.data, response)

    def _message(self, record: MessagePassed) -> OpenCall | None:
        call = self.calls.get(record.call)
        if call is None:
            return None
        if not record.response:
            if call.request is None:
                kept = self._keep(call, record.data)
                call.request = record if kept else replace(record, data=b"", missing="too_large")
            return call
        call.responses += 1
        if call.method.server_streaming:
            is_kept = call.method.method in _LISTINGS
        else:
            is_kept = call.responses == 1
        if self._responses and is_kept and self._keep(call, record.data):
            call.response += record.data  # the items of messages in a row are those of one
        return call

    def _keep(self, call: OpenCall, data: bytes) -> bool:
        """Return whether data of a call is kept, and count it."""
        if len(data) > self._left:
            return False
        self._left -= len(data)
        call.kept += len(data)
        return True


def _decoded(kind: type[Message] | None, data: bytes) -> Message | None:
    """Decode a message; None for one that cannot be, or of a method outside the CRI."""
    if kind is None:
        return None
    try:
        return decode_message(kind, data)
    except DecodeError:
        return None
