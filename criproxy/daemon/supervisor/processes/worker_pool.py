"""Starts, restarts, queries and drains the workers of one configuration.

A worker that ends without having been told to is started anew, at once the first time, then after
pauses that double; the clients of its listeners wait in the backlog meanwhile, because the
listening sockets are the supervisor's.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from criproxy.concurrency.process_messages import Message
from criproxy.concurrency.tasks import Tasks
from criproxy.config.load import LoadedConfig
from criproxy.config.schema import Config
from criproxy.configtypes.section import Section
from criproxy.daemon.supervisor.processes.backoff import Backoff
from criproxy.daemon.supervisor.processes.spawner import SpawnerClient
from criproxy.daemon.supervisor.processes.worker_plan import WorkerPlan, plan_workers
from criproxy.daemon.supervisor.processes.worker_process import (
    STALLED,
    WorkerProcess,
    describe_status,
)
from criproxy.errors import CriproxyError, UnavailableError
from criproxy.observe.logs.log import Log
from criproxy.observe.metrics_merge import Snapshot, retire
from criproxy.relay.bypass import bypass

_BYPASS_WINDOW: Final = 600.0
"""Seconds within which the ends of a worker count for ``workers.bypass_after``."""

_KILL_MARGIN: Final = 10.0
"""Seconds beyond the time for a drain after which a worker is killed."""

_LOOK: Final = 1.0
"""Seconds between looks at whether the event loops turn."""

ANSWER: Final = 2.0
"""Seconds that a worker has to answer a question."""


class Listening(Protocol):
    """Has the listening sockets."""

    def sockets_of(self, plan: WorkerPlan) -> Sequence[Any]:
        """Return the sockets of a plan's listeners, in their order."""


class ChannelPort(Protocol):
    """Makes channels to the recorder, to the exporter or to the capturer."""

    @property
    def is_running(self) -> bool:
        """Whether channels can be made; if not, each worker is given one later."""

    def connect(self, spec: Section | None) -> AbstractContextManager[int | None]:
        """Make a channel and yield the descriptor of the worker's end; None without ``spec``."""


class ChannelPorts(NamedTuple):
    """The processes that workers have channels to."""

    recorder: ChannelPort
    exporter: ChannelPort
    capturer: ChannelPort

    def configured(self, config: Config) -> dict[str, tuple[ChannelPort, Section | None]]:
        """Return each with its section of a configuration, by name, in the order of channels."""
        return {
            "recorder": (self.recorder, config.audit),
            "exporter": (self.exporter, config.traces),
            "capturer": (self.capturer, config.capture),
        }


class WorkerPool:
    """Runs a worker for each plan of a configuration."""

    def __init__(
        self,
        loaded: LoadedConfig,
        spawner: SpawnerClient,
        listening: Listening,
        ports: ChannelPorts,
        retired: "RetiredCounters",
        restarted: Callable[[str], None],
        lines: Callable[[Sequence[bytes], int], None],
        log: Log,
        tasks: Tasks,
    ) -> None:
        """``restarted`` is called with the name of each worker that is started anew.

        ``lines`` is given lines of calls, and how many calls were left out before them.
        """
        self.loaded = loaded
        self._spawner = spawner
        self._listening = listening
        self._ports = ports.configured(loaded.config)
        self._retired = retired
        self._log = log
        self._tasks = tasks
        self.plans = plan_workers(loaded.config)
        self._current: dict[str, WorkerProcess] = {}
        self._all: set[WorkerProcess] = set()
        self._stopping = False
        self._restarted = restarted
        self._lines = lines

    async def start(self, within: float) -> None:
        """Start all workers; return when all of them serve.

        Raises a CriproxyError when one does not; the others are told to end.
        """
        try:
            async with asyncio.timeout(within):
                for plan in self.plans:
                    await self._start(plan)
                await asyncio.gather(*(each.ready for each in self._current.values()))
        except TimeoutError:
            await self.drain(0.0)
            late = [name for name, each in self._current.items() if not each.ready.done()]
            what = f"worker {', '.join(late)} is not ready within {within:g} s"
            raise UnavailableError(what) from None
        except BaseException:
            await self.drain(0.0)
            raise
        for plan in self.plans:
            self._tasks.start(self._keep(plan), f"worker {plan.name}")
        self._tasks.start(self._watch(), "watch of the workers")

    @property
    def processes(self) -> Mapping[str, WorkerProcess]:
        """The workers that serve now, by name."""
        return self._current

    @property
    def running(self) -> set[WorkerProcess]:
        """All workers, those too that drain."""
        return set(self._all)

    @property
    def turning(self) -> bool:
        """Whether every worker's event loop turns."""
        return all(each.alive for each in self._current.values())

    async def ask(self, what: str, within: float = ANSWER, **fields: Any) -> dict[str, Any]:
        """Ask the workers that serve; those that do not answer ``within`` so many seconds are left
        out."""
        processes = list(self._current.values())
        answers = await _within(within, [each.ask(what, **fields) for each in processes])
        return {
            process.plan.name: answer
            for process, answer in zip(processes, answers, strict=True)
            if not isinstance(answer, BaseException)
        }

    async def ask_all(self, what: str, **fields: Any) -> list[tuple[str, Any]]:
        """Ask all workers, those too that drain; return the names and answers of those that do."""
        processes = list(self._all)
        answers = await _within(ANSWER, [each.ask(what, **fields) for each in processes])
        return [
            (process.plan.name, answer)
            for process, answer in zip(processes, answers, strict=True)
            if not isinstance(answer, BaseException)
        ]

    async def refresh(self) -> set[str]:
        """Have all workers report their metrics; return the names of those that serve and have."""
        processes = list(self._all)
        results = await _within(ANSWER, [each.report() for each in processes])
        answered = {
            process for process, result in zip(processes, results, strict=True) if result is None
        }
        return {name for name, process in self._current.items() if process in answered}

    @property
    def snapshots(self) -> list[Snapshot]:
        """The metrics that each worker reported last. Those of one that ends move to the retired
        counters in the same turn of the event loop: their sum never goes down."""
        return [each.snapshot for each in list(self._all)]

    def reconnect(self, name: str) -> None:
        """Give each worker a channel to a process that was started anew."""
        for each in self._all:
            self._reconnect(each, name)

    def _reconnect(self, process: WorkerProcess, name: str) -> None:
        port, spec = self._ports[name]
        if port.is_running:
            with port.connect(spec) as channel:
                # Making the channel shows whether the process has just ended.
                if channel is not None and port.is_running:
                    process.tell("channel", [channel], to=name)

    def tell(self, operation: str) -> None:
        """Send a command to all workers."""
        for each in self._all:
            each.tell(operation)

    async def drain(self, seconds: float, last: bool = False) -> tuple[int, int]:
        """Drain all workers and wait for their end; return how many calls finished, and were cut.

        One that does not end in time is killed. ``last``: no other worker accepts clients.
        """
        self._stopping = True
        processes = list(self._all)
        for each in processes:
            each.drain(seconds, last)
        if processes:
            exits = [each.exited for each in processes]
            await asyncio.wait(exits, timeout=seconds + _KILL_MARGIN)
        for each in processes:
            each.kill()
        counts = [await each.drained for each in processes]
        return sum(finished for finished, _ in counts), sum(cut for _, cut in counts)

    def cut(self) -> None:
        """End a drain: calls that are still in flight are cut."""
        self.tell("cut")

    async def _start(self, plan: WorkerPlan) -> WorkerProcess:
        process = WorkerProcess(plan, self.loaded, self._log, self._share_pods, self._lines)
        process.channel_lost = partial(self._reconnect, process)
        with ExitStack() as stack:
            ends = [stack.enter_context(port.connect(spec)) for port, spec in self._ports.values()]
            channels = [each for each in ends if each is not None]
            await process.start(self._spawner, self._listening.sockets_of(plan), channels)
        self._current[plan.name] = process
        self._all.add(process)
        process.exited.add_done_callback(lambda _: self._exited(process))
        return process

    def _exited(self, process: WorkerProcess) -> None:
        self._all.discard(process)
        self._retired.add(process.snapshot)

    def _bypass(self, plan: WorkerPlan) -> None:
        """Have the clients of a worker that keeps ending reach the runtime directly."""
        for each in plan.listeners:
            if each.is_scoped or each.is_split or each.runtime is None:
                continue
            try:
                bypass(each.endpoint, each.runtime)
            except CriproxyError as error:
                self._log.error("bypass failed", listener=str(each.endpoint), error=str(error))
            else:
                self._log.error(
                    "listener bypassed: its worker keeps ending",
                    listener=str(each.endpoint),
                    note="rules and the audit log do not apply; end it with criproxy bypass off",
                )

    def _share_pods(self, sender: WorkerProcess, message: Message) -> None:
        """Forward what a worker has learnt of pods to the others."""
        for each in self._all:
            if each is not sender and each.ready.done():
                each.send(message)

    async def _keep(self, plan: WorkerPlan) -> None:
        """Start a worker anew whenever it ends by itself. Never returns, unless all are to end."""
        loop = asyncio.get_running_loop()
        backoff = Backoff()
        ends: list[float] = []
        while True:
            process, began = self._current[plan.name], loop.time()
            await asyncio.wait(
                (process.exited, process.failing), return_when=asyncio.FIRST_COMPLETED
            )
            if self._stopping:
                return
            pause = backoff.next_pause(loop.time() - began)
            if process.exited.done():
                how = describe_status(process.exited.result())
            else:
                how = f"a crash of the task {process.failing.result()!r}"
            self._log.error(
                "worker ended", worker=plan.name, pid=process.pid, how=how, restart_s=pause
            )
            ends = [each for each in ends if loop.time() - each < _BYPASS_WINDOW] + [loop.time()]
            if len(ends) == self.loaded.config.workers.bypass_after:
                self._bypass(plan)
            await asyncio.sleep(pause)
            self._restarted(plan.name)
            try:
                process = await self._start(plan)
                await process.ready
            except (CriproxyError, OSError) as error:
                self._log.error("worker does not start", worker=plan.name, error=str(error))
            else:
                self._log.info("worker started", worker=plan.name, pid=process.pid)

    async def _watch(self) -> None:
        """Report a worker whose event loop does not turn, with its stack, and kill it at last.

        Returns when all workers have been told to end, and have.
        """
        limit = self.loaded.config.workers.stall_limit
        while self._all or not self._stopping:
            await asyncio.sleep(_LOOK)
            for name, process in list(self._current.items()):
                if process.exited.done():
                    continue
                process.missed += 1
                if process.missed == STALLED and process.ready.done():
                    stack = await process.stack()
                    self._log.warning("worker stalled", worker=name, pid=process.pid, stack=stack)
                elif limit and process.missed * _LOOK >= limit:
                    self._log.error("worker killed: stalled", worker=name, pid=process.pid)
                    process.kill()


async def _within(seconds: float, work: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Run coroutines side by side; return what each returns or raises, TimeoutError if too late."""

    async def one(coroutine: Coroutine[Any, Any, Any]) -> Any:
        async with asyncio.timeout(seconds):
            return await coroutine

    return await asyncio.gather(*map(one, work), return_exceptions=True)


class RetiredCounters:
    """The counters of workers that have ended."""

    def __init__(self) -> None:
        self.snapshot: Snapshot = []

    def add(self, last: Snapshot) -> None:
        """Keep the counters of a worker that has ended."""
        self.snapshot = retire(self.snapshot, last)
