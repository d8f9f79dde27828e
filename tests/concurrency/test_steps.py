"""Steps run synchronously up to their first wait, one after the other."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

import pytest

from criproxy.concurrency.steps import LARGE, LargeMessageExecutor, StepRunner, Steps
from tests.support.virtual_time import passed, run, settle


class Owner:
    """Records the calls of a StepRunner."""

    def __init__(self, left: float | None = None) -> None:
        self.recorded: list[Any] = []
        self.held = 0.0
        self.tasks: list[asyncio.Task[None]] = []
        self._left = left
        self._since: float | None = None

    def start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(work))
        return self.tasks[-1]

    def steps_failed(self, error: Exception) -> None:
        self.recorded.append(str(error))

    def time_left(self) -> float | None:
        return self._left

    def deadline_passed(self) -> None:
        self.recorded.append("deadline passed")

    def wait_began(self) -> None:
        self._since = asyncio.get_running_loop().time()

    def wait_ended(self) -> None:
        if self._since is not None:
            self.held += asyncio.get_running_loop().time() - self._since
            self._since = None

    def record(self, *words: str) -> Steps[None]:
        self.recorded.extend(words)
        yield from ()

    def sleep(self, seconds: float, word: str) -> Steps[None]:
        yield partial(asyncio.sleep, seconds)
        self.recorded.append(word)

    def fail(self, seconds: float = 0.0) -> Steps[None]:
        if seconds:
            yield partial(asyncio.sleep, seconds)
        raise ValueError("failed")


def test_without_waiting() -> None:
    """Steps that do not wait have ended when run() returns, and no task is created for them."""

    async def main() -> None:
        owner = Owner()
        runner = StepRunner(owner)
        runner.run(owner.record("a"))
        runner.run(owner.fail())
        runner.run(owner.record("b"))
        assert owner.recorded == ["a", "failed", "b"]
        assert owner.tasks == []

    run(main)


def test_in_order() -> None:
    """Steps that are run while others wait follow them, in the same task."""

    async def main() -> None:
        owner = Owner()
        runner = StepRunner(owner)
        runner.run(owner.sleep(2, "a"))
        runner.run(owner.record("b"))
        runner.run(owner.fail(1))
        runner.run(owner.sleep(1, "c"))
        await passed(1.5)
        assert owner.recorded == []
        await passed(1.0)
        assert owner.recorded == ["a", "b"]
        await passed(2.0)
        assert owner.recorded == ["a", "b", "failed", "c"]
        assert owner.held == pytest.approx(4.0)
        assert len(owner.tasks) == 1
        runner.run(owner.record("d"))
        assert owner.recorded[-1] == "d"

    run(main)


def test_run_from_within() -> None:
    """Steps that are run from within others follow them."""

    async def main() -> None:
        owner = Owner()
        runner = StepRunner(owner)

        def outer() -> Steps[None]:
            runner.run(owner.record("inner"))
            yield from owner.record("outer")

        runner.run(outer())
        assert owner.recorded == ["outer", "inner"]

    run(main)


def test_result_of_a_wait() -> None:
    """Steps are sent the result of a wait, or have its exception raised."""

    async def main() -> None:
        owner = Owner()

        async def give() -> str:
            return "given"

        async def fail() -> None:
            raise ValueError("no")

        def steps() -> Steps[None]:
            owner.recorded.append((yield give))
            try:
                yield fail
            except ValueError as error:
                owner.recorded.append(str(error))

        StepRunner(owner).run(steps())
        await settle()
        assert owner.recorded == ["given", "no"]

    run(main)


@pytest.mark.parametrize("after", [0.0, 1.0])
def test_stop(after: float) -> None:
    """A runner that is stopped runs nothing more, before a wait has begun or during it."""

    async def main() -> None:
        owner = Owner()
        runner = StepRunner(owner)
        runner.run(owner.sleep(2, "a"))
        runner.run(owner.record("b"))
        if after:
            await passed(after)
        runner.stop()
        await passed(5.0)
        assert owner.recorded == []
        assert owner.held == pytest.approx(after)
        assert owner.tasks[0].cancelled()

    run(main)


@pytest.mark.parametrize("wait", [0.0, 1.0])
def test_stop_from_within(wait: float) -> None:
    """Steps may stop their runner; nothing runs after them."""

    async def main() -> None:
        owner = Owner()
        runner = StepRunner(owner)

        def steps() -> Steps[None]:
            if wait:
                yield partial(asyncio.sleep, wait)
            runner.stop()
            yield partial(asyncio.sleep, 1.0)
            owner.recorded.append("behind")

        runner.run(steps())
        runner.run(owner.record("b")) if wait else None
        await passed(5.0)
        assert owner.recorded == []
        assert all(task.done() and not task.cancelled() for task in owner.tasks)

    run(main)


def test_deadline() -> None:
    """A wait longer than the time left is reported, and the steps do not continue."""

    async def main() -> None:
        owner = Owner(left=3.0)
        runner = StepRunner(owner)
        runner.run(owner.sleep(2, "a"))
        runner.run(owner.sleep(2, "b"))
        await passed(5.0)
        assert owner.recorded == ["a", "deadline passed"]
        assert owner.held == pytest.approx(3.0)

    run(main)


def test_without_waiting_block() -> None:
    """In the block the error is raised in steps that wait or would; the rest runs at once."""

    async def main() -> None:
        owner = Owner()
        runner = StepRunner(owner)
        runner.run(owner.sleep(2, "a"))
        runner.run(owner.record("b"))
        await passed(1.0)
        with runner.without_waiting(lambda: ValueError("now")):
            assert owner.recorded == ["now", "b"]
            runner.run(owner.sleep(2, "c"))
            runner.run(owner.record("d"))
        assert owner.recorded == ["now", "b", "now", "d"]
        runner.run(owner.sleep(2, "e"))
        await passed(2.5)
        assert owner.recorded[-1] == "e"
        assert owner.held == pytest.approx(3.0)

    run(main)


@pytest.mark.parametrize(("size", "waits"), [(LARGE, False), (LARGE + 1, True)])
def test_executor(size: int, waits: bool) -> None:
    """Large messages are processed in a thread, others on the loop, with the same results."""

    async def main() -> None:
        owner = Owner()
        executor = LargeMessageExecutor()

        def steps() -> Steps[None]:
            owner.recorded.append((yield from executor.run(size, max, 1, 2)))
            try:
                yield from executor.run(size, int, "x")
            except ValueError:
                owner.recorded.append("failed")

        StepRunner(owner).run(steps())
        assert bool(owner.recorded) is not waits
        await asyncio.gather(*owner.tasks)
        assert owner.recorded == [2, "failed"]
        executor.close()
        executor.close()

    run(main)
