"""A load generator whose bytes resemble grpc-go's and whose own cost is small.

It uses one connection on a blocking unix socket, with one or several concurrent unary calls. It
resembles grpc-go in that:

- header blocks differ from call to call: ``grpc-timeout`` changes and is inserted into the dynamic
  table, which pushes the other fields out now and then (see ``go_hpack.py``). A proxy gets nothing
  from remembering whole blocks.
- the frames around a call: PING and WINDOW_UPDATE on the first DATA after each answered PING, for
  the bandwidth estimate, and an answer to each PING of the server's. They leave in a write of their
  own, before the next call's HEADERS and DATA, as they mostly do in recorded kubelet connections.

To stay out of the measurement, requests are built before the timed part and header blocks are
decoded after it. A call lasts from before the write of its request until after the read of its
end. Every answer is checked: its bytes, its status, its end.
"""

import gc
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final, Self

from hpack import Decoder, HPACKError

from bench.go_hpack import GoEncoder
from bench.wire import DEFAULT_WINDOW, Client, LoadError, request, request_fields

LARGE_WINDOW: Final = 4 << 20
"""Window that grpc-go's estimate reaches for responses of 1 MiB; its limit is 16 MiB."""
SILENCE_SECONDS: Final = 30
"""Time without data, while calls are open, after which the peer has failed."""
READ_BYTES: Final = 256 << 10
TIMEOUTS_US: Final = range(29_990_000, 30_000_000)
"""Range of grpc-timeouts: the rest of 30 s when a call is written."""
PREFIX_BYTES: Final = 5
"""A message's compression flag and length (gRPC over HTTP/2, "Length-Prefixed-Message")."""


@dataclass(frozen=True, slots=True)
class Call:
    """One unary call: ``/service/method``, its request message, and the expected response.

    ``answer`` is its DATA with the five-byte prefix; None accepts any. ``status`` is the expected
    gRPC status code.
    """

    path: str
    message: bytes = b""
    answer: bytes | None = None
    status: int = 0


@dataclass(frozen=True, slots=True)
class Requests:
    """Serialized calls: the first one's stream id, and the frames of each."""

    first_stream: int
    frames: list[bytes]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run; times in nanoseconds. ``errors`` counts failed calls by reason."""

    latencies: list[int]
    elapsed: int
    own_cpu: int
    errors: Counter[str]
    goaways: int


class Connection:
    """One client connection: ``build`` requests, then ``run`` them, as often as wanted."""

    def __init__(self, path: Path, *, window: int = DEFAULT_WINDOW, seed: int = 1) -> None:
        """Connect to the socket at ``path`` and exchange SETTINGS.

        ``window`` is how many bytes the server may send unacknowledged; ``seed`` decides the
        timeouts. Raises OSError when nothing listens, LoadError when it speaks no HTTP/2.
        """
        self._random = Random(seed)
        self._encoder = GoEncoder()
        self._statuses = _Statuses()
        self._next_stream = 1
        self._client = Client(window)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(path))
            # A timeout of the kernel's: Python's own would add a poll to every read.
            self._socket.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", SILENCE_SECONDS, 0)
            )
            self._socket.sendall(self._client.opening())
            while not self._client.settings_seen:
                self._read_or_fail()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def build(self, call: Call, count: int) -> Requests:
        """Prepare ``count`` calls, to be run once and in the order in which they were built."""
        if len(call.message) + PREFIX_BYTES > DEFAULT_WINDOW:
            raise ValueError("the request does not fit a stream's first window")
        first = self._next_stream
        self._next_stream += 2 * count
        return Requests(
            first,
            [
                request(
                    stream,
                    self._encoder.encode(
                        request_fields(call.path, self._random.choice(TIMEOUTS_US))
                    ),
                    call.message,
                )
                for stream in range(first, self._next_stream, 2)
            ],
        )

    def run(self, call: Call, requests: Requests, at_once: int = 1) -> Outcome:
        """Make the calls that ``build`` prepared, keeping ``at_once`` of them open.

        A call that fails is counted; so is each one left over when the connection ends. Raises
        LoadError where going on is impossible: silence, or frames that no gRPC server sends.
        """
        client = self._client
        client.begin(call.answer)
        goaways = client.goaways
        with _uncollected():
            cpu, began = time.process_time_ns(), time.perf_counter_ns()
            self._exchange(requests, PREFIX_BYTES + len(call.message), at_once)
            elapsed = time.perf_counter_ns() - began
            own_cpu = time.process_time_ns() - cpu
        failures = client.failures | self._statuses.failures(client.blocks, call.status)
        errors = Counter(failures.values())
        if left := len(requests.frames) - len(client.latencies):
            errors["connection ended"] += left
        return Outcome(client.latencies, elapsed, own_cpu, errors, client.goaways - goaways)

    def ask(self, call: Call) -> bytes:
        """Make one call and return the DATA of its answer; raises LoadError if it fails."""
        outcome = self.run(call, self.build(call, 1))
        if outcome.errors:
            raise LoadError(f"{call.path}: {next(iter(outcome.errors))}")
        return bytes(self._client.body)

    def _exchange(self, requests: Requests, size: int, at_once: int) -> None:
        """Write and read until every call has ended, or the connection has."""
        client, frames = self._client, requests.frames
        sent, total = 0, len(frames)
        while sent < total or client.opened:
            count = min(at_once - len(client.opened), total - sent, client.send_window // size)
            try:
                if count > 0:
                    streams = range(
                        requests.first_stream + 2 * sent,
                        requests.first_stream + 2 * (sent + count),
                        2,
                    )
                    client.open(streams, size, time.perf_counter_ns())
                    self._socket.sendall(b"".join(frames[sent : sent + count]))
                    sent += count
                if not self._read():
                    return
            except ConnectionError:
                return

    def _read(self) -> bool:
        """Read once and answer; return whether the connection is still there."""
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            raise LoadError(f"silence for {SILENCE_SECONDS} s with calls open") from None
        if answers := self._client.receive(data, time.perf_counter_ns()):
            self._socket.sendall(answers)
        return bool(data)

    def _read_or_fail(self) -> None:
        if not self._read():
            raise LoadError("closed before its SETTINGS: not an HTTP/2 server, or none behind it")


class _Statuses:
    """Decodes header blocks after the run, with a cache.

    A block's meaning is cached as long as the dynamic table does not change.
    """

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._known: dict[tuple[bool, bytes], str | None] = {}

    def failures(self, blocks: list[tuple[int, bool, bytes]], status: int) -> dict[int, str]:
        """Return the error of each failed stream; correct calls end with ``status``.

        ``blocks`` are all the connection's since the last time, in order: the stream, whether
        the block ended it, and the bytes.
        """
        right = (None, f"grpc-status {status}")
        failures = {}
        for stream, last, block in blocks:
            known = (last, block) in self._known
            outcome = self._known[last, block] if known else self._decode(last, block)
            if outcome not in right:
                failures[stream] = outcome
        return failures

    def _decode(self, last: bool, block: bytes) -> str | None:
        entries = self._decoder.header_table.dynamic_entries
        size, newest = len(entries), entries[0] if entries else None
        try:
            fields = dict(self._decoder.decode(block, raw=True))
        except HPACKError as error:
            raise LoadError(f"a header block cannot be decoded: {error!r}") from error
        if len(entries) != size or (entries and entries[0] is not newest):
            self._known.clear()
        outcome = self._known[last, block] = _outcome(fields, last)
        return outcome


def _outcome(fields: dict[bytes, bytes], last: bool) -> str | None:
    """Return how a block ends its call, or which HTTP status it has in place of 200."""
    if (status := fields.get(b":status", b"200")) != b"200":
        return f"HTTP status {status.decode()}"
    return f"grpc-status {fields.get(b'grpc-status', b'missing').decode()}" if last else None


@contextmanager
def _uncollected() -> Iterator[None]:
    """Disable the garbage collector in the timed part."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
