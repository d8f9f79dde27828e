"""The process that writes the cassette: it removes secrets and compresses, beside the relay.

It is forked before the relay has an event loop, and ends when the relay closes its end of the
socket, also because the relay has died: what has arrived is written in any case.
"""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from criproxy.capture.channel import RecordReceiver
from criproxy.cassette.records import AnyRecord, Began, CallBegan, Dropped, Ended
from criproxy.cassette.writer import CassetteWriter
from criproxy.errors import CriproxyError, UnavailableError
from criproxy.timeline.filters import CallFilter

if TYPE_CHECKING:
    from criproxy.capture.trigger import Trigger
    from criproxy.cassette.message_redaction import MessageRedactor
    from criproxy.cri.redaction import Redactor

_FLUSH_SECONDS: Final = 1.0
"""What was recorded earlier is in the file, if both processes are killed."""

_OVERDUE_SECONDS: Final = 0.5
"""Between looks at the calls in flight: a client can have thousands, and each takes 15 µs."""

_NICENESS: Final = 10
"""The relay, and the runtime, go first where CPUs are short."""

_RESERVE: Final = 64 << 10
"""Bytes of the largest size that are kept back: for the last record, and for a block that does not
shrink when it is compressed."""

SMALLEST_SIZE: Final = 1 << 20
"""Bytes below which a largest size leaves no room for a cassette."""


@dataclass(frozen=True, slots=True)
class RedactOptions:
    """What is redacted beside what the audit log redacts by default."""

    enabled: bool = True
    annotations: tuple[str, ...] = ()
    values: tuple[str, ...] = ()

    def redactor(self) -> "Redactor | None":
        """Return the redactor. Raises ValueError for an invalid regular expression."""
        from criproxy.cri.redaction import Redactor

        if not self.enabled:
            return None
        return Redactor(annotations=self.annotations, values=self.values)


@dataclass(frozen=True, slots=True)
class RingOptions:
    """A recording that is kept in memory until a call is as it is waited for."""

    size: int
    """Bytes of the compressed recording that are kept."""
    wanted: CallFilter | None = None
    """The conditions on the call; None: none, what is kept is written at the end."""
    after: float = 10.0
    """Seconds for which the recording goes on after that call."""


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How a cassette is written."""

    redact: RedactOptions
    max_size: int | None = None
    """Bytes of the cassette at most; None: no limit."""
    ring: RingOptions | None = None
    """None: everything is written as it comes."""


class WritingReport(msgspec.Struct):
    """What the writing process has done."""

    size: int = 0
    """Bytes of the cassette."""
    dropped: int = 0
    """Records that were lost."""
    reason: str = ""
    """Why it has ended the recording: `size`, `trigger`; empty if it has not."""
    error: str = ""
    """Why it could not go on; empty if nothing went wrong."""


class WritingProcess:
    """The process, from :meth:`start` to :meth:`finish`."""

    def __init__(self, pid: int, sock: socket.socket, report: int) -> None:
        self.socket = sock
        """The relay's end of the socket, for records as :mod:`criproxy.cassette.blocks` frames
        them."""
        self._pid = pid
        self._report = report

    @classmethod
    def start(
        cls,
        writer: CassetteWriter,
        began: Began,
        options: WriteOptions,
        listening: socket.socket,
    ) -> "WritingProcess":
        """Fork the process, which owns the ``writer``. Nothing else may run in this one yet.

        ``listening`` is not the process's: clients must not wait at it when the relay is gone.
        """
        ours, theirs = socket.socketpair()
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid:
            theirs.close()
            os.close(write_end)
            return cls(pid, ours, read_end)
        status = 1
        try:
            ours.close()
            os.close(read_end)
            os.close(listening.fileno())
            os.nice(_NICENESS)
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # preempts nobody
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # the relay's end ends this process
            report = _run(theirs, writer, began, options)
            os.write(write_end, msgspec.msgpack.encode(report))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def finish(self) -> WritingReport:
        """Wait for the process, once its socket is closed, and return its report.

        Raises UnavailableError if it did not end by itself.
        """
        with os.fdopen(self._report, "rb") as file:
            data = file.read()
        _, status = os.waitpid(self._pid, 0)
        if not data:
            code = os.waitstatus_to_exitcode(status)
            raise UnavailableError(f"the process that writes the cassette has ended with {code}")
        return msgspec.msgpack.decode(data, type=WritingReport)


class _EndError(Exception):
    """The recording is to end; its text is the reason."""


def _run(
    sock: socket.socket, writer: CassetteWriter, began: Began, options: WriteOptions
) -> WritingReport:
    from criproxy.cassette.message_redaction import MessageRedactor  # loads protobuf

    report = WritingReport()
    recording = _Recording(writer, MessageRedactor(options.redact.redactor()), options)
    try:
        try:
            recording.begin(began)
            for record in _records_from(sock, recording.tick):
                recording.write(record)
        except _EndError as reason:
            report.reason = str(reason)
            recording.end(report.reason)
        writer.close()
    except CriproxyError as error:
        report.error = str(error)
    finally:
        sock.close()
    report.size, report.dropped = writer.size, recording.dropped
    return report


class _Recording:
    def __init__(
        self, writer: CassetteWriter, redactor: "MessageRedactor", options: WriteOptions
    ) -> None:
        self.dropped = 0
        self._writer = writer
        self._redactor = redactor
        self._max_size = options.max_size
        self._ring = options.ring
        self._trigger: Trigger | None = None
        self._triggered: float | None = None  # when it was met, by the monotonic clock
        self._calls = 0
        self._at = 0
        self._began = self._flushed = self._looked = time.monotonic()

    def begin(self, began: Began) -> None:
        """Write the first record."""
        from criproxy.capture.trigger import Trigger
        from criproxy.cassette.ring import Ring

        self._writer.write(began)
        self._writer.flush()
        if self._ring is not None:
            self._writer.keep(Ring(self._ring.size))
            if self._ring.wanted is not None:
                self._trigger = Trigger([self._ring.wanted])

    def write(self, record: AnyRecord) -> None:
        """Redact and write a record. Raises _EndError."""
        self._at = max(self._at, getattr(record, "at", 0))
        if isinstance(record, CallBegan):
            self._calls += 1
        elif isinstance(record, Dropped):
            self.dropped += record.records
        writer, redacted = self._writer, self._redactor.redact(record)
        if not writer.write(redacted):
            self.dropped += 1
            writer.write(Dropped(at=self._at, since=self._at, records=1))
        if self._trigger is not None and self._trigger.see(redacted) is not None:
            self._release()
        if self._max_size is not None and not isinstance(record, Ended):
            left = self._max_size - _RESERVE
            if writer.size + writer.pending > left:
                writer.flush()
                if writer.size + _RESERVE > left:
                    raise _EndError("size")

    def tick(self) -> None:
        """Called when records were received, and at least every second. Raises _EndError."""
        now = time.monotonic()
        if self._trigger is not None and now - self._looked > _OVERDUE_SECONDS:
            self._looked = now
            if self._trigger.overdue(round((now - self._began) * 1e9)) is not None:
                self._release()
        is_kept = self._ring is not None and self._triggered is None
        if now - self._flushed > _FLUSH_SECONDS and not is_kept:
            self._flushed = now
            self._writer.flush()
        after = 0.0 if self._ring is None else self._ring.after
        if self._triggered is not None and now - self._triggered > after:
            raise _EndError("trigger")

    def end(self, reason: str) -> None:
        """Write the last record."""
        ended = Ended(at=self._at, calls=self._calls, dropped=self.dropped, reason=reason)
        self._writer.write(ended)

    def _release(self) -> None:
        self._trigger = None
        self._triggered = time.monotonic()
        self._writer.release()


def _records_from(sock: socket.socket, tick: Callable[[], None]) -> Iterator[AnyRecord]:
    """Yield what the relay sends; ``tick`` is called between."""
    receiver = RecordReceiver()
    sock.settimeout(_FLUSH_SECONDS)
    while True:
        try:
            data = sock.recv(1 << 20)
        except TimeoutError:
            data = None
        if data == b"":
            return
        if data:
            yield from receiver.receive(data)
        tick()
