"""Cassettes of calls that a test makes up, and of recorded connections."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from google.protobuf.message import Message

from criproxy.capture.observer import RecordingObserver
from criproxy.cassette.message_redaction import MessageRedactor
from criproxy.cassette.records import (
    AnyRecord,
    Began,
    CallBegan,
    CallEnded,
    ConnectionOpened,
    Ended,
    MessagePassed,
)
from criproxy.cassette.writer import CassetteWriter
from criproxy.cri.redaction import Redactor
from criproxy.peers.peer import Connection, Peer
from criproxy.wire.reading.connection import ConnectionReader
from tests.support.captures import capture

SECOND = 1_000_000_000


@dataclass
class Made:
    """A call: when it began and ended, in seconds, and what was asked and answered; None for one
    that does not end."""

    method: str
    began: float
    ended: float | None
    request: Message
    responses: Sequence[Message | tuple[float, Message]] = ()
    """Messages, each with its time if that is not the end of the call."""
    code: str = "OK"
    message: str = ""
    end: str = "status"
    service: str = "runtime.v1.RuntimeService"
    timeout: str = ""
    records: list[AnyRecord] = field(default_factory=list)

    def make(self, number: int) -> list[AnyRecord]:
        asked = self.request.SerializeToString()
        at = int(self.began * SECOND)
        made: list[AnyRecord] = [
            CallBegan(
                call=number,
                connection=1,
                at=at,
                path=f"/{self.service}/{self.method}",
                stream=2 * number - 1,
                timeout=self.timeout,
            ),
            MessagePassed(call=number, at=at, size=len(asked), data=asked),
        ]
        if self.ended is None:
            return made
        size = 0
        for each in self.responses:
            when, message = each if isinstance(each, tuple) else (self.ended, each)
            data = message.SerializeToString()
            size += len(data)
            made.append(
                MessagePassed(
                    call=number, at=int(when * SECOND), size=len(data), response=True, data=data
                )
            )
        made.append(
            CallEnded(
                call=number,
                at=int(self.ended * SECOND),
                end=self.end,
                code=self.code,
                message=self.message,
                request_messages=1,
                response_messages=len(self.responses),
                request_bytes=len(asked),
                response_bytes=size,
            )
        )
        return made


def cassette_of(path: Path, calls: Sequence[Made]) -> Path:
    """Write a cassette of calls, their records in the order of time."""
    records: list[AnyRecord] = [ConnectionOpened(connection=1, at=0, pid=7)]
    made = [record for number, call in enumerate(calls, 1) for record in call.make(number)]
    records += sorted(made, key=lambda record: record.at)  # type: ignore[union-attr]
    last = max(call.ended for call in calls if call.ended is not None)
    writer = CassetteWriter(path)
    writer.write(Began(version=1, began=1_700_000_000 * SECOND))
    for record in records:
        writer.write(record)
    writer.write(Ended(at=int(last * SECOND), calls=len(calls), reason="stopped"))
    writer.close()
    return path


def cassette_of_capture(path: Path, name: str, seconds: float = inf) -> Path:
    """Write a redacted cassette of a recorded connection, of its first ``seconds``."""
    writer = CassetteWriter(path)
    writer.write(Began(version=1, began=1_700_000_000 * SECOND))
    for record in records_of_capture(name, seconds):
        writer.write(record)
    writer.close()
    return path


def records_of_capture(name: str, seconds: float = inf) -> list[AnyRecord]:
    """The records of a recorded connection, redacted."""
    conversation = [each for each in capture(name) if each.now < seconds]
    now = 0.0
    records: list[AnyRecord] = []
    redactor = MessageRedactor(Redactor())

    class Channel:
        def put(self, record: AnyRecord, *, essential: bool = False) -> bool:
            records.append(redactor.redact(record))
            return True

    observer = RecordingObserver(Channel(), lambda: now)
    connection = Connection("unix:///run/test.sock", Peer(7, 0, 0, "/usr/bin/kubelet"), 0.0)
    observer.connection_opened(connection)
    reader = ConnectionReader(select_capture=observer.select_capture)
    for side, data, now in conversation:
        events = reader.receive(side, data, now) if data else reader.end(side, now)
        for event in events:
            observer.observe(connection, event)
    return records
