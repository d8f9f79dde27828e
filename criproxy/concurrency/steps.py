"""Generator-based coroutines that run synchronously until they have to wait.

A generator yields a function that starts each wait, and is sent the result. One that does not wait
has finished when :meth:`StepRunner.run` returns, so the bytes that it sends keep their place before
those that arrive later; an asyncio task is created only for a generator that waits.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, ParamSpec, Protocol, TypeVar

from mypy_extensions import mypyc_attr

T = TypeVar("T")
P = ParamSpec("P")

StartWait = Callable[[], Awaitable[Any]]
"""Returns the awaitable to wait for. It is called in a task, when the wait begins."""

Steps = Generator[StartWait, Any, T]
"""A generator-based coroutine that returns T."""

LARGE: Final = 64 * 1024
"""Bytes above which a message is processed in a thread: on the event loop it would delay all other
calls. Comparing two messages of 100 KiB takes 1 ms, of 400 KiB 9 ms; parsing takes a quarter."""


@mypyc_attr(allow_interpreted_subclasses=True)
class LargeMessageExecutor:
    """Decodes, evaluates and encodes messages: large ones in a thread, others on the event loop."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None

    def run(
        self, size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Steps[T]:
        """Call a function that processes about ``size`` bytes, and return its result."""
        if size <= LARGE:
            return function(*args, **kwargs)
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="criproxy-rules")
        work = partial(function, *args, **kwargs)
        executor = self._executor
        result: T = yield lambda: asyncio.get_running_loop().run_in_executor(executor, work)
        return result

    def close(self) -> None:
        """Shut the thread down without waiting for its work."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None


class StepOwner(Protocol):
    """The object whose steps a StepRunner runs."""

    def start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task for steps that wait."""

    def steps_failed(self, error: Exception) -> None:
        """Handle an exception that steps raised; the next steps run unless it stops the runner."""

    def time_left(self) -> float | None:
        """Return how many seconds the steps may still wait; None without a limit."""

    def deadline_passed(self) -> None:
        """Called when steps have waited for longer than :meth:`time_left`."""

    def wait_began(self) -> None:
        """Called when a wait begins."""

    def wait_ended(self) -> None:
        """Called when a wait ends. May be called more than once for a wait."""


class StepRunner:
    """Runs steps one after the other, each synchronously up to its first wait."""

    def __init__(self, owner: StepOwner) -> None:
        self._owner = owner
        self._queue: deque[Steps[None]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._running = False
        self._wait_error: Callable[[], Exception] | None = None

    def run(self, steps: Steps[None]) -> None:
        """Run steps after those that have not finished."""
        self._queue.append(steps)
        if self._task is None and not self._running:
            self._resume(None)

    @contextmanager
    def without_waiting(self, error: Callable[[], Exception]) -> Iterator[None]:
        """Raise ``error()`` in steps that are waiting or begin to wait within the block."""
        self._wait_error = error
        try:
            if self._task is not None:
                self._cancel_wait()
                self._resume(partial(self._queue[0].throw, error()))
            yield
        finally:
            self._wait_error = None

    def stop(self) -> None:
        """Discard all steps and cancel the wait."""
        self._queue.clear()
        if self._task is not None:
            self._cancel_wait()

    def _cancel_wait(self) -> None:
        """Cancel the task that waits, unless it is the caller."""
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        self._task = None
        self._owner.wait_ended()

    def _resume(self, step: Callable[[], StartWait] | None) -> None:
        wait = self._advance(step)
        if wait is not None:
            self._task = self._owner.start_task(self._wait_and_advance(wait))

    def _advance(self, step: Callable[[], StartWait] | None) -> StartWait | None:
        """Run steps until one has to wait; return what starts the wait, None at the end."""
        self._running = True
        try:
            while self._queue:
                steps = self._queue[0]
                try:
                    wait = (step or partial(next, steps))()
                except StopIteration:
                    self._remove(steps)
                except Exception as error:
                    self._remove(steps)
                    self._owner.steps_failed(error)
                else:
                    if not self._queue:  # stopped meanwhile
                        return None
                    if self._wait_error is None:
                        return wait
                    step = partial(steps.throw, self._wait_error())
                    continue
                step = None
            return None
        finally:
            self._running = False

    def _remove(self, steps: Steps[None]) -> None:
        if self._queue and self._queue[0] is steps:
            self._queue.popleft()

    async def _wait_and_advance(self, wait: StartWait | None) -> None:
        try:
            async with asyncio.timeout(self._owner.time_left()):
                while wait is not None:
                    step = await self._await(wait)
                    wait = self._advance(step)
        except TimeoutError:
            self._owner.wait_ended()
            self._owner.deadline_passed()
        finally:
            if self._task is asyncio.current_task():
                self._task = None

    async def _await(self, wait: StartWait) -> Callable[[], StartWait]:
        steps = self._queue[0]
        self._owner.wait_began()
        try:
            result = await wait()
        except Exception as error:
            self._owner.wait_ended()
            return partial(steps.throw, error)
        self._owner.wait_ended()
        return partial(steps.send, result)
