"""Exports a cassette in the Trace Event Format, which Perfetto and chrome://tracing open.

Each connection is a process. Its calls are asynchronous events, because they overlap; the messages
of streams are instants in them; a counter shows the calls in flight. Pods, containers and images
are named as far as calls that passed tell them.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from google.protobuf.message import DecodeError

from criproxy.audit.records.subject import request_class_of, subject_of
from criproxy.cassette.records import (
    AnyRecord,
    Began,
    CallBegan,
    CallEnded,
    ConnectionOpened,
    Dropped,
    MessagePassed,
)
from criproxy.cri.environment import decode_message
from criproxy.cri.naming import MethodName, resolve
from criproxy.rules.errors import EvaluationError
from criproxy.rules.pod_cache import PodCache

_encode: Final = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Call:
    began: CallBegan
    method: MethodName
    path: bytes
    request: bytes = b""
    response: bytes = b""
    responses: int = 0


class TraceExport:
    """Converts records to the bytes of a JSON file."""

    def __init__(self, began: Began) -> None:
        self._began = began
        self._pods = PodCache(short_names=None)
        self._calls: dict[int, _Call] = {}
        self._kubelets: set[int] = set()

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
        match record:
            case ConnectionOpened():
                name = record.executable.rpartition("/")[2] or "client"
                if record.kubelet:
                    self._kubelets.add(record.connection)
                args = {"name": f"{name} (pid {record.pid}, connection {record.connection})"}
                yield {"ph": "M", "name": "process_name", "pid": record.connection, "args": args}
            case CallBegan():
                path = record.path.encode("latin-1", "replace")
                call = self._calls[record.call] = _Call(record, resolve(path), path)
                yield self._event("b", call, record.at, {"path": record.path})
                yield self._in_flight(record.at)
            case MessagePassed():
                yield from self._message(record)
            case CallEnded():
                ended = self._calls.pop(record.call, None)
                if ended is not None:
                    yield self._event("e", ended, record.at, self._result(ended, record))
                    yield self._in_flight(record.at)
            case Dropped():
                text = f"{record.records} records are missing"
                yield {"ph": "i", "name": text, "pid": 0, "tid": 0, "s": "g", "ts": record.at / 1e3}
            case _:
                pass

    def _message(self, record: MessagePassed) -> Iterator[dict[str, Any]]:
        call = self._calls.get(record.call)
        if call is None:
            return
        if not record.response:
            call.request = record.data
            return
        call.responses += 1
        if call.responses == 1:
            call.response = record.data
        if call.method.server_streaming:
            yield self._event("n", call, record.at, {"bytes": record.size})

    def _result(self, call: _Call, end: CallEnded) -> dict[str, Any]:
        result = {
            "code": end.code or "UNREAD",
            "message": end.message,
            "end": end.end,
            "request_bytes": end.request_bytes,
            "response_messages": end.response_messages,
            "response_bytes": end.response_bytes,
            "timeout": call.began.timeout,
            **self._subject(call),
        }
        if end.code == "OK":  # after it: a removed pod still has its name
            with suppress(EvaluationError):
                self._pods.update(call.path, call.request, call.response)
        return {key: value for key, value in result.items() if value not in ("", 0)}

    def _subject(self, call: _Call) -> dict[str, str]:
        kind = request_class_of(call.method)
        if kind is None:
            return {}
        try:
            request = decode_message(kind, call.request)
        except DecodeError:
            return {}
        is_kubelet = call.began.connection in self._kubelets
        return subject_of(call.method, request, None, self._pods, is_kubelet).flat_fields()

    def _event(self, phase: str, call: _Call, at: int, args: dict[str, Any]) -> dict[str, Any]:
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
        args = {"calls": len(self._calls)}
        return {
            "ph": "C",
            "name": "calls in flight",
            "pid": 0,
            "tid": 0,
            "ts": at / 1e3,
            "args": args,
        }
