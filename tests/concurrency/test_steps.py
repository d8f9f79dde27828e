"""Courses: run at once as far as they do not wait, one behind the other."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

import pytest

from criproxy.concurrency.steps import LARGE, LargeMessageExecutor, StepRunner, Steps
from tests.support.virtual_time import passed, run, settle


class Traveller:
    """Writes down what it is told."""

    def __init__(self, left: float | None = None) -> None:
        self.told: list[Any] = []
        self.held = 0.0
        self.tasks: list[asyncio.Task[None]] = []
        self._left = left
        self._since: float | None = None

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(work))
        return self.tasks[-1]

    def failed(self, error: Exception) -> None:
        self.told.append(str(error))

    def left(self) -> float | None:
        return self._left

    def too_late(self) -> None:
        self.told.append("too late")

    def waits(self) -> None:
        self._since = asyncio.get_running_loop().time()

    def goes_on(self) -> None:
        if self._since is not None:
            self.held += asyncio.get_running_loop().time() - self._since
            self._since = None

    def says(self, *words: str) -> Steps[None]:
        self.told.extend(words)
        yield from ()

    def sleeps(self, seconds: float, word: str) -> Steps[None]:
        yield partial(asyncio.sleep, seconds)
        self.told.append(word)

    def fails(self, seconds: float = 0.0) -> Steps[None]:
        if seconds:
            yield partial(asyncio.sleep, seconds)
        raise ValueError("failed")


def test_without_waiting() -> None:
    """A course that waits for nothing is over when run() is, and no task is made for it."""

    async def main() -> None:
        traveller = Traveller()
        runner = StepRunner(traveller)
        runner.run(traveller.says("a"))
        runner.run(traveller.fails())
        runner.run(traveller.says("b"))
        assert traveller.told == ["a", "failed", "b"]
        assert traveller.tasks == []

    run(main)


def test_one_behind_the_other() -> None:
    """What is run while a course waits comes behind it, in one task as long as it lasts."""

    async def main() -> None:
        traveller = Traveller()
        runner = StepRunner(traveller)
        runner.run(traveller.sleeps(2, "a"))
        runner.run(traveller.says("b"))
        runner.run(traveller.fails(1))
        runner.run(traveller.sleeps(1, "c"))
        await passed(1.5)
        assert traveller.told == []
        await passed(1.0)
        assert traveller.told == ["a", "b"]
        await passed(2.0)
        assert traveller.told == ["a", "b", "failed", "c"]
        assert traveller.held == pytest.approx(4.0)
        assert len(traveller.tasks) == 1
        runner.run(traveller.says("d"))
        assert traveller.told[-1] == "d"

    run(main)


def test_run_from_within() -> None:
    """A course that is run from within another comes behind it."""

    async def main() -> None:
        traveller = Traveller()
        runner = StepRunner(traveller)

        def outer() -> Steps[None]:
            runner.run(traveller.says("inner"))
            yield from traveller.says("outer")

        runner.run(outer())
        assert traveller.told == ["outer", "inner"]

    run(main)


def test_what_is_waited_for() -> None:
    """A course is given the outcome of what it waits for, or has it raised."""

    async def main() -> None:
        traveller = Traveller()

        async def give() -> str:
            return "given"

        async def fail() -> None:
            raise ValueError("no")

        def course() -> Steps[None]:
            traveller.told.append((yield give))
            try:
                yield fail
            except ValueError as error:
                traveller.told.append(str(error))

        StepRunner(traveller).run(course())
        await settle()
        assert traveller.told == ["given", "no"]

    run(main)


@pytest.mark.parametrize("after", [0.0, 1.0])
def test_stop(after: float) -> None:
    """A Runner that is stopped does nothing more, before the waiting has begun or in it."""

    async def main() -> None:
        traveller = Traveller()
        runner = StepRunner(traveller)
        runner.run(traveller.sleeps(2, "a"))
        runner.run(traveller.says("b"))
        if after:
            await passed(after)
        runner.stop()
        await passed(5.0)
        assert traveller.told == []
        assert traveller.held == pytest.approx(after)
        assert traveller.tasks[0].cancelled()

    run(main)


@pytest.mark.parametrize("wait", [0.0, 1.0])
def test_stop_from_within(wait: float) -> None:
    """A course may stop its Runner; nothing comes behind it."""

    async def main() -> None:
        traveller = Traveller()
        runner = StepRunner(traveller)

        def course() -> Steps[None]:
            if wait:
                yield partial(asyncio.sleep, wait)
            runner.stop()
            yield partial(asyncio.sleep, 1.0)
            traveller.told.append("behind")

        runner.run(course())
        runner.run(traveller.says("b")) if wait else None
        await passed(5.0)
        assert traveller.told == []
        assert all(task.done() and not task.cancelled() for task in traveller.tasks)

    run(main)


def test_too_late() -> None:
    """What waits longer than there is left is told so, and goes no further until it is stopped."""

    async def main() -> None:
        traveller = Traveller(left=3.0)
        runner = StepRunner(traveller)
        runner.run(traveller.sleeps(2, "a"))
        runner.run(traveller.sleeps(2, "b"))
        await passed(5.0)
        assert traveller.told == ["a", "too late"]
        assert traveller.held == pytest.approx(3.0)

    run(main)


def test_hurry() -> None:
    """In a hurry what waits, or would, has the refusal raised; the rest is done at once."""

    async def main() -> None:
        traveller = Traveller()
        runner = StepRunner(traveller)
        runner.run(traveller.sleeps(2, "a"))
        runner.run(traveller.says("b"))
        await passed(1.0)
        with runner.hurry(lambda: ValueError("now")):
            assert traveller.told == ["now", "b"]
            runner.run(traveller.sleeps(2, "c"))
            runner.run(traveller.says("d"))
        assert traveller.told == ["now", "b", "now", "d"]
        runner.run(traveller.sleeps(2, "e"))
        await passed(2.5)
        assert traveller.told[-1] == "e"
        assert traveller.held == pytest.approx(3.0)

    run(main)


@pytest.mark.parametrize(("size", "waits"), [(LARGE, False), (LARGE + 1, True)])
def test_workbench(size: int, waits: bool) -> None:
    """What is large is worked on beside the loop, and what comes of it is the same."""

    async def main() -> None:
        traveller = Traveller()
        workbench = LargeMessageExecutor()

        def course() -> Steps[None]:
            traveller.told.append((yield from workbench.do(size, max, 1, 2)))
            try:
                yield from workbench.do(size, int, "x")
            except ValueError:
                traveller.told.append("failed")

        StepRunner(traveller).run(course())
        assert bool(traveller.told) is not waits
        await asyncio.gather(*traveller.tasks)
        assert traveller.told == [2, "failed"]
        workbench.close()
        workbench.close()

    run(main)
