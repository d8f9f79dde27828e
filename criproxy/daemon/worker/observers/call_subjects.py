"""Names the pod, container and image of calls, for the call log, /calls and slow-call warnings.

A call has only an id in most cases. Its request is captured in passing, within a budget, and is
decoded only when a line about the call is written or somebody asks for the calls in flight. Calls
that create or remove a pod or a container are decoded at their end for the pod cache.

Imported only if calls are to be named, since protobuf costs memory.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Final

from criproxy.audit.items import RuntimeListing
from criproxy.audit.records.capture import SUBJECT_BYTES, subject_limits
from criproxy.audit.records.subject import (
    DirectionMessages,
    decode,
    has_subject,
    request_class_of,
    response_class_of,
    subject_of,
)
from criproxy.cri.naming import resolve
from criproxy.peers.peer import Connection
from criproxy.relay.listener import CaptureFor
from criproxy.rules.errors import EvaluationError
from criproxy.rules.pod_cache import PodCache
from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.message_capture import (
    CaptureBudget,
    CaptureLimits,
    SelectCapture,
    widest,
)

_BUDGET: Final = 8 << 20
"""Bytes of the messages that are captured for names, of all calls in flight of a worker. Above it
the names of further calls are not known."""

_PATHS: Final = 256
"""Paths whose limits are cached: the CRI has less than a hundred, clients may invent others."""

_LISTED: Final = 32
"""Pods, containers and images that are listed at a time."""

Share = Callable[[bytes, bytes, bytes], None]
"""Tells other workers of the path, the request and the response of a call that changes pods."""


class CallSubjects:
    """Names the subjects of a worker's calls. Used on the event loop only."""

    def __init__(self, share: Share | None = None) -> None:
        """``share`` is called for each call that changes the pod cache."""
        self._pod_cache = PodCache()
        self._budget = CaptureBudget(_BUDGET)
        self._share = share
        self._limits: dict[bytes, CaptureLimits | None] = {}

    def capturing(self, capture_for: CaptureFor) -> CaptureFor:
        """Return what captures the messages that name subjects, beside what ``capture_for`` does.

        Messages that ``capture_for`` selects anyway are charged to its budget alone.
        """

        def capture_also(connection: Connection) -> SelectCapture:
            select = capture_for(connection)

            def selected(path: bytes) -> CaptureLimits | None:
                return widest(None if select is None else select(path), self._limits_of(path))

            return selected

        return capture_also

    def fields_of(self, connection: Connection, call: Call) -> Mapping[str, str]:
        """Return the fields of a line about a call, also of one in flight; without unknown ones."""
        method_name = resolve(call.path)
        if call.capture is None or not has_subject(method_name):
            return {}
        request = decode(call.capture.request, request_class_of(method_name), SUBJECT_BYTES)
        response = DirectionMessages()
        if self._changes_pods(call):
            response = decode(call.capture.response, response_class_of(method_name), SUBJECT_BYTES)
        return subject_of(
            method_name,
            request.first,
            response.first,
            self._pod_cache,
            connection.peer.kubelet,
        ).flat_fields()

    def ended(self, call: Call) -> None:
        """Update the pod cache from a call that has ended, after its line was written."""
        if call.capture is None or not self._changes_pods(call):
            return
        method_name = resolve(call.path)
        request = decode(call.capture.request, request_class_of(method_name), SUBJECT_BYTES)
        response = decode(call.capture.response, response_class_of(method_name), SUBJECT_BYTES)
        if request.data and response.data:
            self.update(call.path, request.data[0], response.data[0])
            if self._share is not None:
                self._share(call.path, request.data[0], response.data[0])

    def update(self, path: bytes, request: bytes, response: bytes) -> None:
        """Update the pod cache from the messages of a call that ended with OK."""
        with suppress(EvaluationError):  # its lines have ids without names
            self._pod_cache.update(path, request, response)

    def add_listing(self, pods: bytes = b"", containers: bytes = b"", images: bytes = b"") -> None:
        """See PodListingReceiver."""
        self._pod_cache.add_listing(pods, containers, images)

    def listings(self) -> Iterator[RuntimeListing]:
        """Yield what is known by name, for the process that makes records of the calls, in parts
        that take less than a millisecond each."""
        short_names = self._pod_cache.short_names
        for part in self._pod_cache.listings(_LISTED):
            yield RuntimeListing(*part, short_names)

    def read_short_names(self, short_names: str) -> None:
        """Say how the runtimes read short names of images."""
        self._pod_cache.short_names = short_names

    def _changes_pods(self, call: Call) -> bool:
        return call.code is StatusCode.OK and self._pod_cache.wants(call.path)

    def _limits_of(self, path: bytes) -> CaptureLimits | None:
        if path not in self._limits:
            if len(self._limits) >= _PATHS:
                self._limits.clear()
            limits = subject_limits(resolve(path), self._pod_cache.wants(path))
            self._limits[path] = limits and limits._replace(budget=self._budget)
        return self._limits[path]
