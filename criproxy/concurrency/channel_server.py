"""The life of a process that workers have channels to: configured, given channels, ended.

Commands of the supervisor, beside those of a single process::

    configure  work by ``spec``, a pickled section: ``ready``, or ``failed`` with an ``error``; what
               comes through earlier channels goes by the earlier configuration
    channel    serve the channel whose descriptor comes along, until its worker closes it
    retire     nothing is configured any more: end when the channels are closed

What it reports is in :mod:`criproxy.concurrency.process_reports`. It ends when the supervisor has
closed the control channel and the workers theirs, or have not for :data:`READING` seconds.
"""

import pickle
import selectors
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, Final, Generic, Protocol, TypeVar

from criproxy.concurrency.process_messages import ControlSocket, Message
from criproxy.concurrency.process_reports import ProcessReports

READING: Final = 2.0
"""Seconds that the last of the workers' channels has to be read at the end."""

_CHUNK: Final = 256 << 10


class Consumer(Protocol):
    """What works by one configuration."""

    channels: int
    """The open channels of workers that have this configuration."""

    @property
    def spec(self) -> Any:
        """The configuration."""


class Receiver(Protocol):
    """Takes what comes through one channel."""

    def receive(self, data: bytes) -> None:
        """Take the next bytes."""

    def ended(self) -> None:
        """Called when the worker has closed the channel, or has died."""


AnyConsumer = TypeVar("AnyConsumer", bound=Consumer)
Counts = TypeVar("Counts")


@dataclass(slots=True, eq=False)
class _Channel(Generic[AnyConsumer]):
    sock: socket.socket
    consumer: AnyConsumer
    receiver: Receiver


class ChannelServer(ABC, Generic[AnyConsumer, Counts]):
    """Serves the control channel and the workers' channels, on one thread."""

    def __init__(
        self, control: socket.socket, describe: Callable[[Counts], Any], period: float
    ) -> None:
        """``describe`` returns counters as data that MessagePack can encode. They are reported, and
        :meth:`tick` is called, every ``period`` seconds."""
        self.control = ControlSocket(control)
        self.reports = ProcessReports(self.control, describe)
        self.current: AnyConsumer | None = None
        """What works by the configuration that is in force."""
        self.consumers: list[AnyConsumer] = []
        """That, and those before it that have channels."""
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._selector.register(self.reports, selectors.EVENT_READ)
        self._period = period
        self._next_tick = 0.0

    @abstractmethod
    def make_consumer(self, spec: Any) -> AnyConsumer:
        """Make what works by a configuration. Raises a CriproxyError."""

    @abstractmethod
    def make_receiver(self, consumer: AnyConsumer) -> Receiver:
        """Make what takes the data of a channel."""

    @abstractmethod
    def retire(self, consumer: AnyConsumer) -> None:
        """End a consumer, which gets nothing more."""

    @abstractmethod
    def tick(self) -> None:
        """Do what is to be done from time to time."""

    @abstractmethod
    def counts(self) -> Counts:
        """Return the counters of everything."""

    @abstractmethod
    def finish(self) -> tuple[int, float]:
        """Wait for what is retired; return how much is lost, and after how many seconds."""

    def handle(self, message: Message) -> None:
        """Execute a command that only this process has. By default there is none."""

    def run(self) -> None:
        """Serve until the supervisor closes the control channel."""
        try:
            while True:
                for key, _ in self._selector.select(self._period):
                    if key.fileobj is self.control.sock:
                        for message, descriptors in self.control.receive():
                            self._handle(message, descriptors)
                    elif key.data is not None:
                        self._read(key.data)
                self.reports.send_errors()
                if monotonic() >= self._next_tick:
                    self.tick()
                    self.reports.send_counts(self.counts())
                    self._next_tick = monotonic() + self._period
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._close()

    def _handle(self, message: Message, descriptors: list[int]) -> None:
        operation = message["op"]
        if operation == "configure":
            spec = pickle.loads(message["spec"])  # noqa: S301  # the supervisor's own
            self.reports.configured(partial(self._configure, spec))
        elif operation == "retire":
            self._replace(None)
        elif operation == "channel":
            self._open_channel(socket.socket(fileno=descriptors[0]))
        else:
            self.handle(message)

    def _configure(self, spec: Any) -> None:
        same = next((each for each in self.consumers if each.spec == spec), None)
        self._replace(same or self.make_consumer(spec))

    def _replace(self, consumer: AnyConsumer | None) -> None:
        before, self.current = self.current, consumer
        if consumer is not None and consumer not in self.consumers:
            self.consumers.append(consumer)
        if before is not None:
            self._retire_unused(before)

    def _retire_unused(self, consumer: AnyConsumer) -> None:
        if consumer is not self.current and not consumer.channels:
            self.consumers.remove(consumer)
            self.retire(consumer)

    def _open_channel(self, sock: socket.socket) -> None:
        consumer = self.current
        if consumer is None:
            sock.close()
            return
        sock.setblocking(False)
        consumer.channels += 1
        channel = _Channel(sock, consumer, self.make_receiver(consumer))
        self._selector.register(sock, selectors.EVENT_READ, channel)

    def _read(self, channel: _Channel[AnyConsumer]) -> None:
        try:
            data = channel.sock.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            channel.receiver.receive(data)
            return
        self._selector.unregister(channel.sock)
        channel.sock.close()
        channel.receiver.ended()
        channel.consumer.channels -= 1
        self._retire_unused(channel.consumer)

    def _close(self) -> None:
        """Read the last of the workers' channels, and report what is lost."""
        self._selector.unregister(self.control.sock)
        deadline = monotonic() + READING
        while any(each.channels for each in self.consumers):
            left = deadline - monotonic()
            if left <= 0:
                break
            for key, _ in self._selector.select(left):
                if key.data is not None:
                    self._read(key.data)
        while self.consumers:
            self.retire(self.consumers.pop())
        lost, waited = self.finish()
        self._selector.close()
        self.reports.close(self.counts(), lost, waited)
