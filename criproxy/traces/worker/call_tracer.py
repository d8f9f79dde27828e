"""Decides at a call's end whether it has a span, and gives it to the exporter.

A call belongs to the trace of its caller, if that sends a ``traceparent``. Otherwise it begins a
trace of its own.
"""

from collections.abc import Callable
from random import Random
from typing import Final, NamedTuple

from criproxy.cri.naming import resolve
from criproxy.observe.status_message import status_message
from criproxy.observe.subject_fields import SubjectFields
from criproxy.peers.peer import Connection
from criproxy.traces.channel import TracedCall
from criproxy.traces.context import parse_traceparent
from criproxy.traces.sampling import Sampler
from criproxy.wire.reading.calls import Call

_LONGEST: Final = 1024
"""Characters of a text that is kept: more than any name of Kubernetes has."""


class SpanContext(NamedTuple):
    """The ids of a span that is exported, in hexadecimal."""

    trace_id: str
    span_id: str


class CallTracer:
    """Traces the calls of a worker. Used on the event loop only."""

    def __init__(
        self,
        sampler: Sampler,
        subject_of: SubjectFields,
        wall_ns: Callable[[float], int],
        send: Callable[[TracedCall], bool],
    ) -> None:
        """``wall_ns`` converts a time of the calls' clock to nanoseconds since the epoch.

        ``send`` takes a call for the exporter, without waiting, and returns whether it did.
        """
        self._sampler = sampler
        self._subject_of = subject_of
        self._wall_ns = wall_ns
        self._send = send
        # Seeded here, not at import: processes forked from one parent must not share its state.
        self._random = Random()  # noqa: S311 - ids have to differ, not to be secret

    def ended(self, connection: Connection, call: Call) -> SpanContext | None:
        """Trace a call that has ended; return the context of its span if it has one."""
        if call.ended is None:
            return None
        method_name = resolve(call.path)
        parent = parse_traceparent(call.traceparent) if call.traceparent else None
        trace_id = self._new_id(16) if parent is None else parent.trace_id
        in_head = self._sampler.samples_trace(trace_id, parent)
        if not in_head and not self._sampler.samples_end(
            call.code, call.ended - call.began, method_name.server_streaming
        ):
            return None
        subject = self._subject_of(connection, call)
        span_id = self._new_id(8)
        peer = connection.peer
        sent = self._send(
            TracedCall(
                trace_id=trace_id,
                span_id=span_id,
                parent_id=b"" if parent is None else parent.span_id,
                in_head=in_head,
                began=self._wall_ns(call.began),
                ended=self._wall_ns(call.ended),
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
        return SpanContext(trace_id.hex(), span_id.hex()) if sent else None

    def _new_id(self, size: int) -> bytes:
        """Return random bytes, which are not all zero."""
        return (self._random.getrandbits(8 * size) or 1).to_bytes(size, "big")
