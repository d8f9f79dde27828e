"""Has records made of all calls, with their messages, while somebody reads them.

The tail process makes them, as the recorder makes those of the audit log, and with its redaction.
It is started for the first reader, and ends some seconds after the last has gone.
"""

import asyncio
import pickle
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from criproxy.audit.spec import AuditRuleSpec, AuditSpec, QueueSpec, SinkSpec, StdoutSpec
from criproxy.concurrency.tasks import Tasks
from criproxy.config.schema import Config
from criproxy.configtypes.values import Duration, Size
from criproxy.daemon.supervisor.processes.channel_process import TailProcess
from criproxy.daemon.supervisor.processes.worker_pool import ANSWER, WorkerPool
from criproxy.daemon.supervisor.processes.worker_process import WorkerProcess
from criproxy.errors import UnavailableError

_POLICY: Final = [
    AuditRuleSpec(
        "RequestResponse",
        methods=["@exec"],
        omit=["responseObject.stdout", "responseObject.stderr", "responseObject.url"],
    ),
    AuditRuleSpec("RequestResponse"),
]
"""All calls, without what a command in a container writes, and without the URLs by which whoever
has them may enter one."""

_SINK: Final = SinkSpec(stdout=StdoutSpec(), queue=QueueSpec(records=4096, bytes=Size(8 << 20)))


def spec_of(config: Config) -> AuditSpec:
    """Return what is recorded: redacted, and as large, as in the audit log if there is one."""
    spec = AuditSpec(sinks=[_SINK], policy=_POLICY, received_after=Duration(0))
    if config.audit is None:
        return spec
    audit = config.audit
    return msgspec.structs.replace(
        spec, redact=audit.redact, message=audit.message, node=audit.node
    )


class LiveRecords:
    """The life of the tail process, and its channels to the workers. For one event loop."""

    def __init__(
        self,
        pools: Sequence[WorkerPool],
        make: Callable[[Callable[[], None]], TailProcess],
        tasks: Tasks,
    ) -> None:
        """``pools``: the one in force is the last. ``make`` makes a process that is not started
        yet, and is given what it has to call when it is started anew."""
        self._pools = pools
        self._make = make
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._process: TailProcess | None = None
        self._spec: AuditSpec | None = None
        """What the process was configured with."""
        self._until = 0.0
        self._closed = False
        self._served: set[WorkerProcess] = set()

    async def read_for(self, seconds: float) -> None:
        """Have records made of all calls from now on, for so long.

        Returns when all workers send their calls. Raises UnavailableError and UsageError.
        """
        self._until = max(self._until, self._loop.time() + seconds)
        async with self._lock:
            if self._closed:
                raise UnavailableError("the daemon ends")
            spec = spec_of(self._pools[-1].loaded.config)
            process = self._process
            if process is None:
                process = self._make(self._served.clear)
                try:
                    await process.configure(spec)
                except BaseException:
                    self._tasks.start(process.close(), "end of the tail process")
                    raise
                self._process, self._spec = process, spec
                self._tasks.start(self._end_unread(process), "end of the tail process")
            elif not process.is_running:  # it is being started anew
                return
            elif spec != self._spec:
                await process.configure(spec)
                self._spec = spec
            await self._connect(process, spec)

    async def close(self) -> None:
        """End the process, after the workers, for good."""
        self._closed = True
        async with self._lock:
            await self._close()

    async def _connect(self, process: TailProcess, spec: AuditSpec) -> None:
        """Give a channel to each worker that has none, and wait until it is used."""
        workers = {
            worker
            for pool in self._pools
            if pool.loaded.config.admin.socket is not None
            for worker in pool.running
        }
        self._served &= workers
        data = pickle.dumps(spec)

        async def connect(worker: WorkerProcess) -> None:
            with process.connect(spec) as channel, suppress(OSError, TimeoutError):
                # Making the channel shows whether the process has just ended.
                if channel is None or not process.is_running:
                    return
                self._served.add(worker)
                async with asyncio.timeout(ANSWER):
                    await worker.ask("record", [channel], spec=data)

        await asyncio.gather(*map(connect, workers - self._served))

    async def _end_unread(self, process: TailProcess) -> None:
        while self._process is process:
            left = self._until - self._loop.time()
            if left > 0:
                await asyncio.sleep(left)
                continue
            async with self._lock:
                if self._process is process and self._until <= self._loop.time():
                    await self._close()

    async def _close(self) -> None:
        process, self._process = self._process, None
        self._served.clear()
        for pool in self._pools:
            pool.tell("unrecord")
        if process is not None:
            await process.close()
