"""One worker process, as the supervisor sees it: started, watched, asked, drained."""

import asyncio
import contextlib
import os
import pickle
import resource
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from criproxy.concurrency.process_messages import Message
from criproxy.config.load import LoadedConfig
from criproxy.daemon.control import ControlChannel
from criproxy.daemon.supervisor.processes.spawner import SpawnerClient
from criproxy.daemon.supervisor.processes.worker_plan import WorkerPlan
from criproxy.errors import CriproxyError, UnavailableError, UsageError
from criproxy.observe.logs.log import Log
from criproxy.observe.metrics_merge import Snapshot

DUMP_SIGNAL: Final = signal.SIGRTMIN
"""Has a worker write the stack of its event loop, even while it computes (faulthandler)."""

STALLED: Final = 2
"""Looks without a sign of life after which a worker counts as stalled: over a second."""

_DEAD: Final = 10
"""Looks without a sign of life after which health checks fail."""

_STACK: Final = 16 << 10
"""Bytes of a stack trace that are kept."""

_REPORT_WAIT: Final = 2.0
"""Seconds that the spawner has to report the end of a process."""

_STACK_WAIT: Final = 0.2
"""Seconds that a worker has to write its stack."""


class WorkerProcess:
    """A process that serves the listeners of a plan. Its life is told by four futures."""

    def __init__(
        self,
        plan: WorkerPlan,
        loaded: LoadedConfig,
        log: Log,
        share_pods: Callable[["WorkerProcess", Message], None],
        lines: Callable[[Sequence[bytes], int], None],
    ) -> None:
        """``share_pods`` is given each message for the pod caches of the other workers, ``lines``
        the lines of calls that ended, and how many were left out before them."""
        loop = asyncio.get_running_loop()
        self.plan = plan
        self.pid = 0
        self.snapshot: Snapshot = []
        """The metrics that it reported last."""
        self.ready: asyncio.Future[None] = loop.create_future()
        """It serves; or why it cannot: a CriproxyError."""
        self.failing: asyncio.Future[str] = loop.create_future()
        """A task that it cannot do without has crashed; it drains by itself."""
        self.drained: asyncio.Future[tuple[int, int]] = loop.create_future()
        """How many calls have finished while it drained, and how many it had to cut."""
        self.exited: asyncio.Future[int] = loop.create_future()
        """Its exit status, negative for a signal."""
        self.missed = 0
        """Looks at it, one a second, since its event loop has turned."""
        self.channel_lost: Callable[[str], None] = lambda name: None
        """Called when its channel to another process was closed, with the name of that process: it
        needs another."""
        self._loaded = loaded
        self._log = log
        self._share_pods = share_pods
        self._lines = lines
        self._questions: dict[int, asyncio.Future[Any]] = {}
        self._asked = 0
        self._control: ControlChannel | None = None
        self._stack = -1

    @property
    def alive(self) -> bool:
        """Whether it runs, and its event loop has turned lately."""
        return not self.exited.done() and self.missed < _DEAD

    async def start(
        self, spawner: SpawnerClient, listening: Sequence[socket.socket], channels: Sequence[int]
    ) -> None:
        """Fork the process and give it its sockets; ``ready`` tells what comes of it.

        ``channels``: to the recorder, the exporter and the capturer, as far as they are configured.

        Raises OSError where no process can be forked.
        """
        ours, theirs = socket.socketpair()
        self._stack, stack = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._stack, False)
        try:
            arguments = {"name": self.plan.name, "dump_signal": int(DUMP_SIGNAL)}
            passed = [theirs.fileno(), stack]
            self.pid = await spawner.spawn("worker", arguments, passed, self._ended)
        except OSError:
            ours.close()
            os.close(self._stack)
            raise
        finally:
            theirs.close()
            os.close(stack)
        if self.exited.done():
            ours.close()
            os.close(self._stack)
            return
        self._limit()
        self._control = ControlChannel(ours, self._received, self._channel_closed)
        config = msgspec.structs.replace(self._loaded.config, listeners=list(self.plan.listeners))
        message = {
            "op": "start",
            "loaded": pickle.dumps(replace(self._loaded, config=config)),
            "endpoints": [each.endpoint.path for each in self._loaded.config.listeners],
            "supervisor": os.getpid(),
            "shares_pods": self.plan.shares_pods,
            "selects_pods": self._loaded.config.selects_pods,
        }
        self._control.send(message, [*(each.fileno() for each in listening), *channels])

    def send(self, message: Message) -> None:
        """Send a message as it is."""
        if self._control is not None:
            self._control.send(message)

    def tell(self, operation: str, descriptors: Sequence[int] = (), **fields: Any) -> None:
        """Send a command that has no answer."""
        if self._control is not None:
            self._control.send({"op": operation, **fields}, descriptors)

    async def ask(self, what: str, descriptors: Sequence[int] = (), **fields: Any) -> Any:
        """Ask a question and return the answer. Raises OSError if the worker ends meanwhile."""
        if self._control is None or self.exited.done():
            raise OSError(f"worker {self.plan.name} is not running")
        self._asked += 1
        number = self._asked
        answer = self._questions[number] = asyncio.get_running_loop().create_future()
        try:
            message = {"op": "ask", "id": number, "what": what, **fields}
            self._control.send(message, descriptors)
            return await answer
        finally:
            del self._questions[number]

    async def report(self) -> None:
        """Have it report its metrics. Raises OSError if it ends meanwhile."""
        self.snapshot = await self.ask("metrics")

    def drain(self, seconds: float, last: bool) -> None:
        """Have it take no more clients, let calls in flight end, and exit.

        ``last``: clients that wait in the backlog are taken before.
        """
        self.tell("drain", seconds=seconds, last=last)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        if self.pid and not self.exited.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def stack(self) -> str:
        """Return the stack of its event loop; empty where it cannot even write that."""
        self.kill(DUMP_SIGNAL)
        await asyncio.sleep(_STACK_WAIT)
        try:
            return os.read(self._stack, _STACK).decode(errors="replace")
        except OSError:
            return ""

    def _ended(self, status: int) -> None:
        """Called when the process has exited, or must have."""
        if self.exited.done():
            return
        if self._control is not None:  # its counts, and its last metrics
            self._control.receive_rest()
        self.exited.set_result(status)
        error = UnavailableError(f"worker {self.plan.name} ended with {describe_status(status)}")
        for future in (self.ready, *self._questions.values()):
            if not future.done():
                future.set_exception(error if future is self.ready else OSError(str(error)))
        with contextlib.suppress(asyncio.CancelledError, CriproxyError, asyncio.InvalidStateError):
            self.ready.exception()  # whoever started it may have stopped waiting
        if not self.drained.done():
            self.drained.set_result((0, 0))
        if self._control is not None:
            self._control.close()
            os.close(self._stack)
            self._control = None

    def _channel_closed(self) -> None:
        """Called when the process has ended; the spawner reports how, unless it has ended too."""
        asyncio.get_running_loop().call_later(_REPORT_WAIT, self._ended, 0)

    def _limit(self) -> None:
        """Apply the limits of its kind; what this process may not set is left as it is."""
        limits = self.plan.limits

        def apply(what: str, function: Callable[[], object]) -> None:
            try:
                function()
            except (OSError, ValueError) as error:
                self._log.warning(
                    "worker limit not set", worker=self.plan.name, limit=what, error=str(error)
                )

        if limits.nice:
            apply("nice", lambda: os.setpriority(os.PRIO_PROCESS, self.pid, limits.nice))
        if limits.oom_score_adj is not None:
            apply("oom_score_adj", lambda: _write_oom_score(self.pid, limits.oom_score_adj))
        if limits.memory is not None:
            bytes_ = int(limits.memory)
            apply(
                "memory",
                lambda: resource.prlimit(self.pid, resource.RLIMIT_AS, (bytes_, bytes_)),
            )
        if limits.descriptors is not None:
            most = limits.descriptors
            apply(
                "descriptors",
                lambda: resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (most, most)),
            )

    def _received(self, message: Message, descriptors: list[int]) -> None:
        operation = message["op"]
        if operation == "alive":
            self.missed = 0
        elif operation == "ready":
            self.ready.set_result(None)
        elif operation == "failed":
            kind = UsageError if message["usage"] else UnavailableError
            self.ready.set_exception(kind(message["error"]))
        elif operation == "answer":
            question = self._questions.get(message["id"])
            if question is not None and not question.done():
                question.set_result(message["answer"])
        elif operation == "pods" and self.plan.shares_pods:
            self._share_pods(self, message)
        elif operation == "lines":
            self._lines(message["lines"], message["lost"])
        elif operation == "metrics":
            self.snapshot = message["snapshot"]
        elif operation == "drained":
            self.drained.set_result((message["finished"], message["cut"]))
        elif operation == "channel_lost":
            self.channel_lost(message["to"])
        elif operation == "fatal":
            self.failing.set_result(message["task"])


def describe_status(status: int) -> str:
    """Return an exit status in words: ``exit status 1`` or the name of a signal."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def _write_oom_score(pid: int, score: int | None) -> None:
    with open(f"/proc/{pid}/oom_score_adj", "w") as file:
        file.write(str(score))
