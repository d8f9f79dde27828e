"""Background tasks whose crashes are reported."""

import asyncio

from criproxy.concurrency.tasks import Tasks


class Crashes(list[tuple[str, str]]):
    def __call__(self, name: str, error: BaseException) -> None:
        self.append((name, repr(error)))


async def fail() -> None:
    raise ValueError("a bug")


async def succeed() -> None:
    pass


async def hang() -> None:
    await asyncio.get_running_loop().create_future()


def test_crashes_are_told() -> None:
    """A task that crashes is reported by its name; one that ends or is cancelled is not."""

    async def main(crashes: Crashes) -> None:
        tasks = Tasks(crashes)
        for work, name in ((fail(), "failing"), (succeed(), "good"), (hang(), "hanging")):
            tasks.start(work, name)
        assert len(tasks) == 3
        await tasks.cancel()
        assert len(tasks) == 0

    crashes = Crashes()
    asyncio.run(main(crashes))
    assert crashes == []  # cancelled before any of them began

    async def let_them_run(crashes: Crashes) -> None:
        tasks = Tasks(crashes)
        hanging = tasks.start(hang(), "hanging")
        tasks.start(succeed(), "good")
        await asyncio.wait([tasks.start(fail(), "failing")])
        await asyncio.sleep(0)
        assert len(tasks) == 1
        await tasks.cancel()
        assert hanging.cancelled()

    asyncio.run(let_them_run(crashes))
    assert crashes == [("failing", "ValueError('a bug')")]


def test_waiting_for_all() -> None:
    """Waiting ends with the last task or at the time limit; nothing is cancelled."""

    async def main() -> None:
        tasks = Tasks(Crashes())
        await tasks.finished(within=30)
        done = tasks.start(succeed(), "good")
        await tasks.finished(within=30)
        assert done.done()
        hanging = tasks.start(hang(), "hanging")
        await tasks.finished(within=0)
        assert not hanging.done()
        await tasks.cancel()

    asyncio.run(main())
