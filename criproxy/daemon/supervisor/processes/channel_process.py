"""A process that workers have channels to, as the supervisor sees it: started where configured.

There are four: the recorder of the audit log, the exporter of traces, the capturer, and the
recorder whose records are for the readers of the admin socket. One that ends by itself is started
anew, and each worker is given a new channel.
"""

import asyncio
import pickle
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Final

from criproxy.concurrency.process_messages import Message
from criproxy.concurrency.tasks import Tasks
from criproxy.configtypes.section import Section
from criproxy.daemon.control import ControlChannel
from criproxy.daemon.supervisor.processes.backoff import Backoff
from criproxy.daemon.supervisor.processes.spawner import SpawnerClient
from criproxy.daemon.supervisor.processes.worker_process import describe_status
from criproxy.errors import CriproxyError, UnavailableError, UsageError
from criproxy.observe.logs.log import Log
from criproxy.observe.metrics_merge import Snapshot, retire

_STARTING: Final = 60.0
"""Seconds that it has to open what it writes to."""

_CLOSING: Final = 15.0
"""Seconds that it has to write what waits at its end, before it is left alone."""


_CHUNK: Final = 256 << 10
"""Bytes that are read at once."""


class ChannelProcess(ABC):
    """Starts the process, configures it, and makes channels to it."""

    name: ClassVar[str]
    """Its name, by which the spawner knows what it runs."""
    purpose: ClassVar[str]
    """What it is for, in the name that ps(1) shows."""

    def __init__(
        self,
        spawner: SpawnerClient,
        restarted: Callable[[], None],
        log: Log,
        tasks: Tasks,
    ) -> None:
        """``restarted`` is called when another one serves: each worker needs a new channel."""
        self._spawner = spawner
        self._restarted = restarted
        self._log = log
        self._tasks = tasks
        self._spec: Section | None = None
        self._pid = 0
        self._control: ControlChannel | None = None
        self._configured: asyncio.Future[None] | None = None
        self._ended = asyncio.Event()
        self._closing = False
        self._restarting = False
        self._began = 0.0
        self._backoff = Backoff()
        self._last: Snapshot = []
        self._retired: Snapshot = []

    @property
    def snapshots(self) -> list[Snapshot]:
        """The metrics that it reported last, and those of the ones before it."""
        return [self._last, self._retired]

    @property
    def is_running(self) -> bool:
        """Whether channels can be made; else each worker is given one later."""
        return self._control is not None and not self._restarting

    async def configure(self, spec: Section | None) -> None:
        """Put ``spec`` in force, in a process that is started if there is none.

        Raises UnavailableError and UsageError, and leaves what was before in force.
        """
        if spec is None:  # workers without it have no channel
            self.send("retire")
            return
        if self._control is None:
            await self._start()
        await self._send_configuration(spec)
        self._spec = spec

    @contextmanager
    def connect(self, spec: Section | None) -> Iterator[int | None]:
        """Make a channel and yield the worker's end, which is closed afterwards; None without
        ``spec``."""
        if spec is None:
            yield None
            return
        ours, theirs = socket.socketpair()
        with ours, theirs:
            if self._control is not None:
                self._control.send({"op": "channel"}, [theirs.fileno()])
            yield ours.fileno()

    def send(self, operation: str) -> None:
        """Send a command to the process if there is one: it ignores those that it does not know."""
        if self._control is not None:
            self._control.send({"op": operation})

    def _exited(self, status: int) -> None:
        if not self._closing:
            self._log.error(
                "process ended", process=self.name, pid=self._pid, how=describe_status(status)
            )

    async def close(self) -> None:
        """Let it write what waits, and wait for its end, after the workers have ended."""
        self._closing = True
        if self._control is not None:
            self._control.finish()
            try:
                await asyncio.wait_for(self._ended.wait(), _CLOSING)
            except TimeoutError:
                self._log.error(
                    "process does not end", process=self.name, pid=self._pid, waited_s=_CLOSING
                )
                self._control.close()

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        output = self._open_output()
        passed = [theirs, *output]
        try:
            self._pid = await self._spawner.spawn(
                self.name,
                {"name": self.purpose},
                [each.fileno() for each in passed],
                self._exited,
            )
        except OSError as error:
            ours.close()
            raise UnavailableError(f"the {self.name} cannot be started: {error}") from error
        finally:
            for each in passed:
                each.close()
        self._control = ControlChannel(ours, self._received, self._lost)

    def _open_output(self) -> list[socket.socket]:
        """Return what it is given beside its control channel, which is closed here afterwards."""
        return []

    async def _send_configuration(self, spec: Section) -> None:
        assert self._control is not None
        self._configured = asyncio.get_running_loop().create_future()
        self._control.send({"op": "configure", "spec": pickle.dumps(spec)})
        try:
            await asyncio.wait_for(self._configured, _STARTING)
        except TimeoutError:
            what = f"the {self.name} is not ready within {_STARTING:g} s"
            raise UnavailableError(what) from None
        finally:
            self._configured = None

    def _received(self, message: Message, descriptors: list[int]) -> None:
        operation = message["op"]
        if operation == "metrics":
            self._last = message["snapshot"]
        elif operation == "error":
            self._report_trouble(message["trouble"])
        elif operation == "lost":
            self._report_unwritten(message["count"], message["waited_s"])
        elif self._configured is not None and not self._configured.done():
            if operation == "ready":
                self._configured.set_result(None)
            elif operation == "failed":
                kind = UsageError if message["usage"] else UnavailableError
                self._configured.set_exception(kind(message["error"]))

    @abstractmethod
    def _report_trouble(self, trouble: str) -> None:
        """Log that its output has an error."""

    @abstractmethod
    def _report_unwritten(self, count: int, waited: float) -> None:
        """Log how much it could not write at its end, after so many seconds."""

    def _lost(self) -> None:
        """Called when the process has closed its end, or has died."""
        self._control = None
        self._retired, self._last = retire(self._retired, self._last), []
        if self._configured is not None and not self._configured.done():
            self._configured.set_exception(UnavailableError(f"the {self.name} has ended"))
        if self._closing:
            self._ended.set()
        elif self._spec is not None and not self._restarting:
            self._restarting = True
            self._tasks.start(self._restart(self._spec), f"restart of the {self.name}")

    async def _restart(self, spec: Section) -> None:
        clock = asyncio.get_running_loop().time
        pause = self._backoff.next_pause(clock() - self._began)
        while not self._closing:
            await asyncio.sleep(pause)
            self._began = clock()
            try:
                if self._control is None:
                    await self._start()
                await self._send_configuration(spec)
            except CriproxyError as error:
                pause = self._backoff.next_pause(0.0)
                self._log.error(
                    "process does not start", process=self.name, error=str(error), next_try_s=pause
                )
                continue
            self._restarting = False
            self._log.info("process started", process=self.name, pid=self._pid)
            self._restarted()
            return


class RecorderProcess(ChannelProcess):
    """The recorder of the audit log."""

    name = "recorder"
    purpose = "audit"

    def _report_trouble(self, trouble: str) -> None:
        self._log.error("audit log in trouble", trouble=trouble)

    def _report_unwritten(self, count: int, waited: float) -> None:
        self._log.warning("audit records lost", records=count, waited_s=waited)


class ExporterProcess(ChannelProcess):
    """The exporter of traces."""

    name = "exporter"
    purpose = "traces"

    def _report_trouble(self, trouble: str) -> None:
        self._log.error("traces in trouble", trouble=trouble)

    def _report_unwritten(self, count: int, waited: float) -> None:
        self._log.warning("spans lost", spans=count, waited_s=waited)


class TailProcess(ChannelProcess):
    """A recorder whose records are for the readers of the admin socket.

    It writes them to its standard output, which is read here.
    """

    name = "tail"
    purpose = "tail"

    def __init__(
        self,
        spawner: SpawnerClient,
        restarted: Callable[[], None],
        lines: Callable[[Sequence[bytes]], None],
        log: Log,
        tasks: Tasks,
    ) -> None:
        """``lines`` is given the records as they come."""
        super().__init__(spawner, restarted, log, tasks)
        self._lines = lines
        self._loop = asyncio.get_running_loop()
        self._output: socket.socket | None = None
        self._input = bytearray()

    async def close(self) -> None:
        """Let it end; what it has written by then is read."""
        await super().close()
        self._close_output()

    def _open_output(self) -> list[socket.socket]:
        self._close_output()
        self._output, theirs = socket.socketpair()
        self._output.setblocking(False)
        self._loop.add_reader(self._output.fileno(), self._read)
        return [theirs]

    def _close_output(self) -> None:
        output, self._output = self._output, None
        self._input.clear()
        if output is not None:
            self._loop.remove_reader(output.fileno())
            output.close()

    def _read(self) -> None:
        assert self._output is not None
        try:
            data = self._output.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._close_output()
            return
        self._input += data
        if b"\n" in data:
            *lines, rest = bytes(self._input).split(b"\n")
            self._input[:] = rest
            self._lines(lines)

    def _report_trouble(self, trouble: str) -> None:
        self._log.error("records for the admin socket in trouble", trouble=trouble)

    def _report_unwritten(self, count: int, waited: float) -> None:
        """Nobody reads them any more."""


class CapturerProcess(ChannelProcess):
    """The capturer."""

    name = "capturer"
    purpose = "capture"

    def __init__(
        self, spawner: SpawnerClient, restarted: Callable[[], None], log: Log, tasks: Tasks
    ) -> None:
        super().__init__(spawner, restarted, log, tasks)
        self._asked: list[asyncio.Future[str]] = []

    async def capture(self) -> str:
        """Have a cassette written; return its path. Raises UnavailableError."""
        if self._spec is None:
            raise UnavailableError(
                "nothing is captured; set capture.directory, and reload (SIGHUP)"
            )
        if not self.is_running:
            raise UnavailableError("the capturer has ended, and is started again; try again then")
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self.send("capture")
        return await answer

    def _received(self, message: Message, descriptors: list[int]) -> None:
        if message["op"] != "captured":
            super()._received(message, descriptors)
            return
        answer = self._asked.pop(0)
        if answer.done():  # nobody waits for it any more
            return
        if "path" in message:
            answer.set_result(message["path"])
        else:
            answer.set_exception(UnavailableError(message["error"]))

    def _lost(self) -> None:
        super()._lost()
        for answer in self._asked:
            if not answer.done():
                answer.set_exception(UnavailableError("the capturer has ended"))
        self._asked.clear()

    def _report_trouble(self, trouble: str) -> None:
        self._log.error("capture in trouble", trouble=trouble)

    def _report_unwritten(self, count: int, waited: float) -> None:
        self._log.warning("captured records lost", records=count, waited_s=waited)
