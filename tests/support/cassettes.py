"""Cassettes of calls that a test makes up."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import Message

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

SECOND = 1_000_000_000


@dataclass
class Made:
    """A call: when it began and ended, in seconds, and what was asked and answered."""

    method: str
    began: float
    ended: float
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
    last = max(call.ended for call in calls)
    writer = CassetteWriter(path)
    writer.write(Began(version=1, began=1_700_000_000 * SECOND))
    for record in records:
        writer.write(record)
    writer.write(Ended(at=int(last * SECOND), calls=len(calls), reason="stopped"))
    writer.close()
    return path
