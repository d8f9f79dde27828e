"""Decides at a call's end whether it has a span, and gives it to the exporter.

A call belongs to the trace of its caller, if that sends a ``traceparent``. Otherwise it begins a
trace of its own, unless it is a part of a pod's start: the trace of that is named by the pod, so
that the calls of one start find it without asking.
"""

from collections.abc import Callable, Mapping
from hashlib import blake2b
from random import Random
from typing import Final

from criproxy.cri.naming import resolve
from criproxy.observe.exemplars import SpanReference
from criproxy.observe.logs.status_message import status_message
from criproxy.observe.logs.subject_fields import SubjectFields
from criproxy.peers.peer import Connection
from criproxy.timeline.pod_start import KINDS
from criproxy.traces.channel import TracedCall
from criproxy.traces.context import parse_traceparent
from criproxy.traces.sampling import Sampler
from criproxy.wire.reading.calls import Call

_LONGEST: Final = 1024
"""Characters of a text that is kept: more than any name of Kubernetes has."""


class CallTracer:
    """Traces the calls of a worker. Used on the event loop only."""

    def __init__(
        self,
        sampler: Sampler,
        subject_of: SubjectFields,
        wall_ns: Callable[[float], int],
        send: Callable[[TracedCall], bool],
        pod_starts: bool,
    ) -> None:
        """``wall_ns`` converts a time of the calls' clock to nanoseconds since the epoch.

        ``send`` takes a call for the exporter, without waiting, and returns whether it did.
        ``pod_starts``: calls of which pods start are sent even if they are not sampled.
        """
        self._sampler = sampler
        self._subject_of = subject_of
        self._wall_ns = wall_ns
        self._send = send
        self._pod_starts = pod_starts
        # Seeded here, not at import: processes forked from one parent must not share its state.
        self._random = Random()  # noqa: S311 - ids have to differ, not to be secret

    def ended(self, connection: Connection, call: Call) -> SpanReference | None:
        """Trace a call that has ended; return what refers to its span if it has one."""
        if call.ended is None:
            return None
        method_name = resolve(call.path)
        parent = parse_traceparent(call.traceparent) if call.traceparent else None
        starts_pod = self._pod_starts and method_name.method in KINDS
        subject = self._subject_of(connection, call) if starts_pod else None
        if parent is not None:
            trace_id = parent.trace_id
        else:
            trace_id = (subject and pod_trace_id(subject)) or self._new_id(16)
        in_head = self._sampler.samples_trace(trace_id, parent)
        sampled = in_head or self._sampler.samples_end(
            call.code, call.ended - call.began, method_name.server_streaming
        )
        if not sampled and not starts_pod:
            return None
        if subject is None:
            subject = self._subject_of(connection, call)
        span_id = self._new_id(8)
        peer = connection.peer
        ended = self._wall_ns(call.ended)
        sent = self._send(
            TracedCall(
                trace_id=trace_id,
                span_id=span_id,
                parent_id=b"" if parent is None else parent.span_id,
                sampled=sampled,
                in_head=in_head,
                began=self._wall_ns(call.began),
                ended=ended,
                service=method_name.service,
                method=method_name.method,
                code="" if call.code is None else call.code.name,
                message=status_message(call),
                end=call.end or "",
                listener=connection.listener,
                pid=peer.pid,
                uid=peer.uid,
                executable=peer.executable or "",
                subject={name: text[:_LONGEST] for name, text in subject.items()},
                rules=call.rules,
                denied=call.denied[:_LONGEST],
                held=call.held_by(call.ended),
                first_byte=None if call.first_byte is None else call.first_byte - call.began,
                overhead=call.overhead,
                request_bytes=call.request.bytes,
                response_bytes=call.response.bytes,
            )
        )
        if not sampled or not sent:
            return None
        return SpanReference(trace_id.hex(), span_id.hex(), ended / 1e9)

    def _new_id(self, size: int) -> bytes:
        """Return random bytes, which are not all zero."""
        return (self._random.getrandbits(8 * size) or 1).to_bytes(size, "big")


def pod_trace_id(subject: Mapping[str, str]) -> bytes | None:
    """Return the id of the trace of a pod's starts by its fields; None if the pod is not known."""
    if not subject.get("pod"):
        return None
    name = subject.get("pod_uid") or f"{subject.get('namespace', '')}/{subject['pod']}"
    return blake2b(name.encode("utf-8", "replace"), digest_size=16).digest()
