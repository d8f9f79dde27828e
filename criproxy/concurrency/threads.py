"""Threads for functions that may block, and may never return.

A thread is made for each call: one that is stuck must not be waited for when the process ends, as
those of an Executor are.
"""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


class DaemonThreads:
    """Runs up to ``size`` functions at a time; more of them wait for their turn."""

    def __init__(self, size: int, name: str) -> None:
        """``name`` is what the threads are called."""
        self._size = size
        self._name = name
        self._places = asyncio.Semaphore(size)
        self._strays = 0

    @property
    def stuck(self) -> bool:
        """Whether all threads are busy with functions that nobody waits for any more."""
        return self._strays >= self._size

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function in a thread. Cancelled, it leaves the function to itself."""
        loop = asyncio.get_running_loop()
        await self._places.acquire()
        outcome: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            try:
                result = function()
            except BaseException as error:
                left(partial(outcome.set_exception, error))
            else:
                left(partial(outcome.set_result, result))

        def left(tell: Callable[[], None]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(self._leave, outcome, tell)

        try:
            Thread(target=work, name=self._name, daemon=True).start()
        except RuntimeError:  # the system has no more
            self._places.release()
            raise
        try:
            return await outcome
        except asyncio.CancelledError:
            self._strays += outcome.cancelled()
            raise

    def _leave(self, outcome: "asyncio.Future[T]", tell: Callable[[], None]) -> None:
        self._places.release()
        if outcome.cancelled():
            self._strays -= 1
        else:
            tell()
