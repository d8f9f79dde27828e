"""Starts, supervises and kills the runner process of a hook script, from a worker's event loop.

A call that is not finished at its time limit is overdue: its runner gets no new calls, and is
killed as soon as only overdue calls are left in it. Another runner takes its place.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Final, cast

from criproxy.concurrency.steps import LARGE
from criproxy.concurrency.tasks import run_in_thread_if
from criproxy.enforce.hooks import runner_protocol as protocol
from criproxy.enforce.hooks.script_output import ScriptOutput
from criproxy.rules.errors import EvaluationError

OUTSTANDING: Final = 256
"""Calls that may wait for one runner; further ones fail."""

LOAD_TIME: Final = 60.0
"""Seconds that a script may take to load."""


_STDERR: Final = 2


@dataclass(frozen=True, slots=True)
class ScriptSource:
    """A script as it was read when the rules were loaded."""

    path: Path
    source: bytes

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    def load(self) -> protocol.Load:
        """Return the message that loads it."""
        return protocol.Load(str(self.path), self.source)


@dataclass(slots=True)
class _PendingCall:
    outcome: "asyncio.Future[protocol.Outcome]"
    deadline: float
    """Seconds of the loop's clock."""
    extend_timeout: Callable[[float], None]
    timer: asyncio.TimerHandle | None = None


def start_process(output: int | None) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a runner; return it and the socket to it. ``output``: its stdout and stderr."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-u", "-m", "criproxy.enforce.hooks.runner"]
        try:
            process = subprocess.Popen(  # noqa: S603 - our own program
                [*command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=_STDERR if output is None else output,
                stderr=output,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
    return process, ours


def kill_process(process: "subprocess.Popen[bytes]") -> None:
    """Kill a runner and the processes that its script has started, and reap it in a thread."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    Thread(target=process.wait, name="criproxy-reap", daemon=True).start()


@dataclass(slots=True, eq=False)
class RunnerProcess(asyncio.Protocol):
    """One runner. ``ended`` is called when it gets no more calls: it is overdue, or has ended."""

    script: ScriptSource
    output: ScriptOutput
    ended: "Callable[[RunnerProcess], None]"
    _process: "subprocess.Popen[bytes] | None" = None
    _transport: asyncio.Transport | None = None
    _calls: dict[int, _PendingCall] = field(default_factory=dict)
    _overdue: set[int] = field(default_factory=set)
    _number: int = 0
    _buffer: bytearray = field(default_factory=bytearray)
    _failure: str = ""
    _task: "asyncio.Task[None] | None" = None
    _timer: asyncio.TimerHandle | None = None
    _ready: "asyncio.Future[None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def start(self, delay: float) -> None:
        """Start the process, after ``delay`` seconds."""
        self._task = asyncio.get_running_loop().create_task(self._start(delay))

    async def call(
        self, call: protocol.Call, limit: float, extend: Callable[[float], None]
    ) -> protocol.Outcome:
        """Call a function of the script; ``limit`` is in seconds, of which ``extend`` adds some.

        The caller enforces the limit by cancellation. Raises EvaluationError if the process cannot
        be started, or ends.
        """
        if len(self._calls) >= OUTSTANDING:
            raise EvaluationError("script", f"{OUTSTANDING} calls wait for {self.script.name}")
        self._number += 1
        number = call.number = self._number
        loop = asyncio.get_running_loop()
        pending = _PendingCall(loop.create_future(), loop.time() + limit, extend)
        self._calls[number] = pending
        try:
            await asyncio.shield(self._ready)
            large = len(call.message) + len(call.request or b"") > LARGE
            data = await run_in_thread_if(large, protocol.frame, call)
            if self._transport is None:
                raise EvaluationError("script", self._failure)
            self._transport.write(data)
            return await pending.outcome
        except asyncio.CancelledError:
            self._abandon(number, pending)
            raise
        finally:
            if pending.outcome.done() or number not in self._calls:
                self._calls.pop(number, None)

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended, or is being killed."""
        return bool(self._failure)

    def kill_process(self) -> None:
        """Kill the process alone, where the loop has been closed."""
        if self._process is not None:
            kill_process(self._process)

    def kill(self) -> None:
        """Kill the process; the calls that wait for it fail."""
        self._fail(f"{self.script.name}: the process was killed")

    # The life of the process.

    async def _start(self, delay: float) -> None:
        await asyncio.sleep(delay)
        loop = asyncio.get_running_loop()
        try:
            self._process, channel = start_process(self.output.open())
            await loop.create_unix_connection(lambda: self, sock=channel)
        except OSError as error:
            self._fail(f"{self.script.name}: the process cannot be started: {error.strerror}")
            return
        finally:
            self.output.close_writer()
        late = f"{self.script.name}: not loaded within {LOAD_TIME:g} s"
        self._timer = loop.call_later(LOAD_TIME, self._fail, late)

    def _fail(self, reason: str) -> None:
        if self._failure:
            return
        self._failure = reason
        self.ended(self)
        if self._task is not None:
            self._task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if self._process is not None:
            kill_process(self._process)
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        self.output.close()
        for pending in self._calls.values():
            if pending.timer is not None:
                pending.timer.cancel()
            if not pending.outcome.done():
                pending.outcome.set_exception(EvaluationError("script", reason))
                pending.outcome.exception()  # nobody may wait for it any more
        self._calls.clear()
        if not self._ready.done():
            self._ready.set_exception(EvaluationError("script", reason))
            self._ready.exception()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(protocol.frame(self.script.load()))

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._fail(f"{self.script.name}: the process that runs it has ended")

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        buffer = self._buffer
        buffer += data
        prefix = protocol.LENGTH.size
        while len(buffer) >= prefix:
            end = prefix + protocol.LENGTH.unpack_from(buffer)[0]
            if len(buffer) < end:
                return
            message = protocol.from_runner.decode(memoryview(buffer)[prefix:end])
            del buffer[:end]
            self._handle(message)

    def _handle(self, message: object) -> None:
        match message:
            case protocol.Loaded():
                if self._timer is not None:
                    self._timer.cancel()
                if not self._ready.done():
                    self._ready.set_result(None)
            case protocol.LoadFailed():
                self._fail(message.error)
            case protocol.Delayed():
                pending = self._calls.get(message.number)
                if pending is not None:
                    pending.deadline += max(message.seconds, 0.0)
                    pending.extend_timeout(message.seconds)
            case protocol.Outcome():
                self._finish(message.number, message)

    def _finish(self, number: int, outcome: protocol.Outcome) -> None:
        pending = self._calls.pop(number, None)
        self._overdue.discard(number)
        if pending is not None:
            if pending.timer is not None:
                pending.timer.cancel()
            if not pending.outcome.done():
                pending.outcome.set_result(outcome)
        self._kill_if_overdue()

    # Calls that nobody waits for any more.

    def _abandon(self, number: int, pending: _PendingCall) -> None:
        if number not in self._calls or self._transport is None:
            self._calls.pop(number, None)
            return
        self._transport.write(protocol.frame(protocol.Cancel(number)))
        loop = asyncio.get_running_loop()
        pending.timer = loop.call_at(pending.deadline, self._set_overdue, number)

    def _set_overdue(self, number: int) -> None:
        self._overdue.add(number)
        self.ended(self)
        self._kill_if_overdue()

    def _kill_if_overdue(self) -> None:
        if self._overdue and self._overdue >= self._calls.keys():
            self.kill()
