"""Exports a cassette in the Trace Event Format, which Perfetto and chrome://tracing open.

Each connection is a process. Its calls are asynchronous events, because they overlap; the messages
of streams are instants in them; a counter shows the calls in flight. Pods, containers and images
are named as far as calls that passed tell them.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from criproxy.cassette.open_calls import OpenCall, OpenCalls
from criproxy.cassette.records import (
    AnyRecord,
    Began,
    CallBegan,
    CallEnded,
    ConnectionOpened,
    Dropped,
    MessagePassed,
)

_encode: Final = msgspec.json.Encoder().encode


class TraceExport:
    """Converts records to the bytes of a JSON file."""

    def __init__(self, began: Began) -> None:
        self._began = began
        self._open = OpenCalls()

    def header(self) -> bytes:
        """Return the beginning of the file."""
        began = self._began
        about = {"node": began.node, "listener": began.listener, "runtime": began.runtime}
        beginning = {"ph": "M", "name": "process_name", "pid": 0, "args": {"name": "calls"}}
        return (
            b'{"displayTimeUnit":"ms","otherData":'
            + _encode({**about, "began_ns": str(began.began)})
            + b',"traceEvents":[\n'
            + _encode(beginning)
        )

    def footer(self) -> bytes:
        """Return the end of the file."""
        return b"\n]}\n"

    def convert(self, record: AnyRecord) -> Iterator[bytes]:
        """Yield what stands for a record; call it with all records, in order."""
        for event in self._events(record):
            yield b",\n" + _encode(event)

    def _events(self, record: AnyRecord) -> Iterator[dict[str, Any]]:
        call = self._open.follow(record)
        if call is not None:
            yield from self._call_events(call, record)
        elif isinstance(record, ConnectionOpened):
            name = record.executable.rpartition("/")[2] or "client"
            args = {"name": f"{name} (pid {record.pid}, connection {record.connection})"}
            yield {"ph": "M", "name": "process_name", "pid": record.connection, "args": args}
        elif isinstance(record, Dropped):
            text = f"{record.records} records are missing"
            yield {"ph": "i", "name": text, "pid": 0, "tid": 0, "s": "g", "ts": record.at / 1e3}

    def _call_events(self, call: OpenCall, record: AnyRecord) -> Iterator[dict[str, Any]]:
        match record:
            case CallBegan():
                yield self._event("b", call, record.at, {"path": record.path})
                yield self._in_flight(record.at)
            case MessagePassed() if record.response and call.method.server_streaming:
                yield self._event("n", call, record.at, {"bytes": record.size})
            case CallEnded():
                yield self._event("e", call, record.at, self._result(call, record))
                yield self._in_flight(record.at)
            case _:
                pass

    def _result(self, call: OpenCall, end: CallEnded) -> dict[str, Any]:
        result = {
            "code": end.code or "UNREAD",
            "message": end.message,
            "end": end.end,
            "request_bytes": end.request_bytes,
            "response_messages": end.response_messages,
            "response_bytes": end.response_bytes,
            "timeout": call.began.timeout,
            **self._open.subject(call).flat_fields(),
        }
        self._open.learn(call, end)
        return {key: value for key, value in result.items() if value not in ("", 0)}

    def _event(self, phase: str, call: OpenCall, at: int, args: dict[str, Any]) -> dict[str, Any]:
        return {
            "ph": phase,
            "cat": call.method.service_label,
            "name": call.method.method or "call",
            "id": str(call.began.call),
            "pid": call.began.connection,
            "tid": 0,
            "ts": at / 1e3,
            "args": args,
        }

    def _in_flight(self, at: int) -> dict[str, Any]:
        args = {"calls": len(self._open.calls)}
        return {
            "ph": "C",
            "name": "calls in flight",
            "pid": 0,
            "tid": 0,
            "ts": at / 1e3,
            "args": args,
        }
