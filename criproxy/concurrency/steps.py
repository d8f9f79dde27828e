"""What is done about a call, step by step, in which waiting is the exception.

A course is a generator that yields what it has to wait for, and is given the outcome. One that
yields nothing is over within the call that began it, so that what it sends keeps its place among
what comes behind it; a task is made only for one that waits.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, ParamSpec, Protocol, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

Awaited = Callable[[], Awaitable[Any]]
"""Begins what is to be waited for. It is called when the waiting begins, within a task."""

Steps = Generator[Awaited, Any, T]
"""What is done step by step; its value is what comes of it."""

LARGE: Final = 256 * 1024
"""Bytes of a message from which on it is worked on in a thread: the loop would stand still for
milliseconds else, and with it all other calls."""


class LargeMessageExecutor:
    """Where messages are decoded, looked at and encoded: here, or in a thread if they are large."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None

    def do(
        self, size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Steps[T]:
        """Call a function that works on about ``size`` bytes."""
        if size <= LARGE:
            return function(*args, **kwargs)
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="criproxy-rules")
        work = partial(function, *args, **kwargs)
        thread = self._thread
        result: T = yield lambda: asyncio.get_running_loop().run_in_executor(thread, work)
        return result

    def close(self) -> None:
        """Let the thread go, without waiting for what it does."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None


class StepOwner(Protocol):
    """Whose courses a Runner runs."""

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin a task for a course that waits."""

    def failed(self, error: Exception) -> None:
        """Take what a course has raised; those behind it are run unless it stops the Runner."""

    def left(self) -> float | None:
        """Tell how many seconds may be waited from now on; None where there is no limit."""

    def too_late(self) -> None:
        """Take notice that :meth:`left` has passed in waiting."""

    def waits(self) -> None:
        """Take notice that a course waits from now on."""

    def goes_on(self) -> None:
        """Take notice that the waiting is over; it may have been over before."""


class StepRunner:
    """Runs courses one after the other, each at once as far as it does not wait."""

    def __init__(self, traveller: StepOwner) -> None:
        self._traveller = traveller
        self._courses: deque[Steps[None]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._running = False
        self._refusal: Callable[[], Exception] | None = None

    def run(self, course: Steps[None]) -> None:
        """Run a course behind those that are still under way."""
        self._courses.append(course)
        if self._task is None and not self._running:
            self._go_on(None)

    @contextmanager
    def hurry(self, refusal: Callable[[], Exception]) -> Iterator[None]:
        """Do without waiting meanwhile: where a course waits, or would, this is raised in it."""
        self._refusal = refusal
        try:
            if self._task is not None:
                self._leave()
                self._go_on(partial(self._courses[0].throw, refusal()))
            yield
        finally:
            self._refusal = None

    def stop(self) -> None:
        """Forget all courses, and what is waited for."""
        self._courses.clear()
        if self._task is not None:
            self._leave()

    def _leave(self) -> None:
        """Wait no longer, if this is not what the waiting has led to."""
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        self._task = None
        self._traveller.goes_on()

    def _go_on(self, step: Callable[[], Awaited] | None) -> None:
        wait = self._advance(step)
        if wait is not None:
            self._task = self._traveller.start(self._follow(wait))

    def _advance(self, step: Callable[[], Awaited] | None) -> Awaited | None:
        """Go on until there is something to wait for, or nothing left to do."""
        self._running = True
        try:
            while self._courses:
                course = self._courses[0]
                try:
                    wait = (step or partial(next, course))()
                except StopIteration:
                    self._over(course)
                except Exception as error:
                    self._over(course)
                    self._traveller.failed(error)
                else:
                    if not self._courses:  # stopped meanwhile
                        return None
                    if self._refusal is None:
                        return wait
                    step = partial(course.throw, self._refusal())
                    continue
                step = None
            return None
        finally:
            self._running = False

    def _over(self, course: Steps[None]) -> None:
        if self._courses and self._courses[0] is course:
            self._courses.popleft()

    async def _follow(self, wait: Awaited | None) -> None:
        try:
            async with asyncio.timeout(self._traveller.left()):
                while wait is not None:
                    step = await self._await(wait)
                    wait = self._advance(step)
        except TimeoutError:
            self._traveller.goes_on()
            self._traveller.too_late()
        finally:
            if self._task is asyncio.current_task():
                self._task = None

    async def _await(self, wait: Awaited) -> Callable[[], Awaited]:
        course = self._courses[0]
        self._traveller.waits()
        try:
            result = await wait()
        except Exception as error:
            self._traveller.goes_on()
            return partial(course.throw, error)
        self._traveller.goes_on()
        return partial(course.send, result)
