"""The records by one configuration: kept in a ring, and written to cassettes."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from criproxy import __version__
from criproxy.capture.capturer.directory import CassetteDirectory
from criproxy.capture.counts import CaptureCounts
from criproxy.capture.spec import CaptureSpec
from criproxy.capture.trigger import Trigger
from criproxy.cassette.blocks import RecordBlocks
from criproxy.cassette.message_redaction import MessageRedactor
from criproxy.cassette.records import VERSION, AnyRecord, Began, CallBegan, Dropped, Ended
from criproxy.cassette.ring import Ring
from criproxy.cassette.writer import CassetteWriter
from criproxy.common.printable import shorten
from criproxy.cri.redaction import Redactor
from criproxy.errors import CriproxyError
from criproxy.timeline.logged_call import LoggedCall

_RESERVE: Final = 64 << 10
"""Bytes of the largest size that are kept back for the last record."""

_SECOND: Final = 1_000_000_000

_LONGEST_NAME: Final = 256
"""Characters of a name in the description of a call: more than any name of Kubernetes has. A client
can send one of 16 MiB."""


class RingRecording:
    """Keeps records, and writes a cassette when a call is as it is waited for.

    Times are nanoseconds since the beginning, as those of records. What is kept stays when a
    cassette was written, so that each has all that led to its call.
    """

    def __init__(
        self,
        spec: CaptureSpec,
        counts: CaptureCounts,
        wall_ns: Callable[[], int],
        log_error: Callable[[str], None],
    ) -> None:
        """``wall_ns`` returns the nanoseconds since the epoch at the time that records' times are
        since: it changes when the system's clock is set.

        Raises UsageError and UnavailableError for what cannot be served.
        """
        self.spec = spec
        self.channels = 0
        """The open channels of workers that have this configuration."""
        self._counts = counts
        self._wall_ns = wall_ns
        self._log_error = log_error
        self._directory = CassetteDirectory(Path(spec.directory), spec.files, spec.total_size)
        self._redactor = MessageRedactor(_redactor(spec))
        self._trigger = Trigger([each.filter for each in spec.triggers])
        self._ring = Ring(spec.ring)
        self._blocks = RecordBlocks(self._add_block)
        self._cassette: CassetteWriter | None = None
        self._begun: int | None = None  # when the last cassette was
        self._now = 0
        self._calls = 0
        self._dropped = 0

    @property
    def kept_bytes(self) -> int:
        """Bytes that are kept in memory."""
        return self._ring.size + self._blocks.pending

    def add(self, record: AnyRecord, now: int) -> None:
        """Keep a record, and begin a cassette if it ends a call that is waited for.

        Never raises.
        """
        try:
            self._add(record, now)
        except Exception as error:  # a bug must not end what is kept
            if not self._counts.dropped["failed"]:
                self._log_error(
                    "a record could not be kept, and is counted as dropped; "
                    f"this is a fault of criproxy's: {error!r}"
                )
            self._counts.dropped["failed"] += 1

    def _add(self, record: AnyRecord, now: int) -> None:
        self._now = now
        if isinstance(record, CallBegan):
            self._calls += 1
        elif isinstance(record, Dropped):
            self._dropped += record.records
        redacted = self._redactor.redact(record)
        if not self._blocks.write(redacted):
            self._dropped += 1
            self._counts.dropped["too_large"] += 1
            self._blocks.write(Dropped(at=now, since=now, records=1))
        self._triggered(self._trigger.see(redacted))

    def tick(self, now: int) -> None:
        """Look at calls in flight, and end a cassette in time; to be called about every second."""
        self._now = now
        self._triggered(self._trigger.overdue(now))
        if self._cassette is not None and self._begun is not None:
            self._blocks.flush()  # what is written can be read at once
            if now - self._begun >= self.spec.after * _SECOND:
                self._end("trigger")

    def command(self, now: int) -> Path:
        """Begin a cassette, unless one is being written; return its path. Raises CriproxyError."""
        self._now = now
        cassette = self._cassette or self._begin("command", "")
        return cassette.path

    def close(self) -> None:
        """End the cassette that is being written, and forget what is kept."""
        if self._cassette is not None:
            self._blocks.flush()
        self._end("stopped")
        self._ring = Ring(self.spec.ring)

    def _triggered(self, call: LoggedCall | None) -> None:
        if call is None or self._cassette is not None:
            return
        if self._begun is not None and self._now - self._begun < self.spec.interval * _SECOND:
            self._counts.suppressed += 1
            return
        try:
            self._begin("trigger", _describe(call))
        except CriproxyError as error:
            self._log_error(f"no cassette is written: {error}")

    def _begin(self, reason: str, trigger: str) -> CassetteWriter:
        """Begin a cassette with what is kept. Raises CriproxyError."""
        self._begun = self._now
        began = self._wall_ns()
        try:
            path = self._directory.make_room((began + self._now) / _SECOND, self.spec.file_size)
            writer = CassetteWriter(path)
        except CriproxyError:
            self._counts.errors += 1
            raise
        finally:
            self._counts.removed += self._directory.removed
            self._directory.removed = 0
        try:
            writer.write(
                Began(
                    version=VERSION,
                    began=began,
                    criproxy=__version__,
                    node=self.spec.node or socket.gethostname(),
                    redacted=self.spec.redact is not None,
                    trigger=trigger,
                )
            )
            writer.flush()
            self._blocks.flush()
            for block in self._ring.blocks():
                writer.write_block(block)
        except CriproxyError:
            self._give_up(writer)
            raise
        self._cassette = writer
        self._counts.cassettes[reason] += 1
        return writer

    def _add_block(self, block: bytes) -> None:
        self._ring.add(block)
        writer = self._cassette
        if writer is None:
            return
        if writer.size + len(block) + _RESERVE > self.spec.file_size:
            self._end("size")
            return
        try:
            writer.write_block(block)
        except CriproxyError as error:
            self._cassette = None
            self._give_up(writer)
            self._log_error(f"a cassette is given up: {error}")

    def _end(self, reason: str) -> None:
        """End the cassette that is being written, if there is one."""
        writer, self._cassette = self._cassette, None
        if writer is None:
            return
        try:
            writer.write(
                Ended(at=self._now, calls=self._calls, dropped=self._dropped, reason=reason)
            )
            writer.close()
        except CriproxyError as error:
            self._give_up(writer)
            self._log_error(f"a cassette is given up: {error}")

    def _give_up(self, writer: CassetteWriter) -> None:
        """Remove a cassette that cannot be written whole: the disk is full, in most cases."""
        self._counts.errors += 1
        writer.discard()


def _redactor(spec: CaptureSpec) -> Redactor | None:
    redact = spec.redact
    if redact is None:
        return None
    return Redactor(redact.environment, redact.info, redact.annotations, redact.values)


def _describe(call: LoggedCall) -> str:
    """Return what a call was, for whoever reads the cassette."""
    method, *names = (
        shorten(each, _LONGEST_NAME) for each in (call.method, call.namespace, call.pod)
    )
    about = "/".join(filter(None, names))
    end = call.code or ("in flight" if call.running else "UNREAD")
    took = f" after {call.duration:.3f} s" if call.duration else ""
    return f"{method}{' of ' if about else ''}{about}: {end}{took}"
