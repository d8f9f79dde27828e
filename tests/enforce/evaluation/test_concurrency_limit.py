"""Slots of a concurrency limit: their number, keys and order."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Literal

import pytest

from criproxy.configtypes.values import Duration
from criproxy.cri.naming import resolve
from criproxy.enforce.evaluation.concurrency_limit import ConcurrencyLimit, LimitExceededError
from criproxy.peers.peer import Peer
from criproxy.rules.facts import Facts, Pod
from criproxy.rules.spec import LimitSpec
from tests.support.waiting import LIMIT_SECONDS

KEY = "key"


def limit(in_flight: int = 1, queue: int = 10, wait: float | None = None) -> ConcurrencyLimit:
    return ConcurrencyLimit(
        LimitSpec(in_flight=in_flight, queue=queue, wait=None if wait is None else Duration(wait))
    )


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(test(), LIMIT_SECONDS)

    asyncio.run(main())


def test_in_flight() -> None:
    """A number of calls have a slot; a released slot goes to the call that has waited longest."""

    async def main() -> None:
        slots = limit(in_flight=2)
        order: list[int] = []

        async def call(number: int) -> None:
            await slots.acquire(KEY)
            order.append(number)

        calls = [asyncio.create_task(call(number)) for number in range(5)]
        await settle()
        assert order == [0, 1]
        assert (slots.in_flight, slots.waiting) == (2, 3)
        for count in (3, 4, 5):
            slots.release(KEY)
            await settle()
            assert order == list(range(count))
            assert slots.in_flight == 2
        await asyncio.gather(*calls)
        slots.release(KEY)
        slots.release(KEY)
        assert len(slots) == 0

    run(main)


def test_try_acquire() -> None:
    """A slot is acquired at once only if one is free and no call waits for it."""

    async def main() -> None:
        slots = limit()
        assert slots.try_acquire(KEY)
        assert not slots.try_acquire(KEY)
        waiting = asyncio.create_task(slots.acquire(KEY))
        await settle()
        slots.release(KEY)  # it belongs to the waiting call from here on
        assert not slots.try_acquire(KEY)
        await waiting
        slots.release(KEY)
        assert slots.try_acquire(KEY)

    run(main)


@pytest.mark.parametrize(
    ("queue", "says"), [(2, "queue is full (2 wait)"), (0, "1 in flight, and there is no queue")]
)
def test_full(queue: int, says: str) -> None:
    """A call that finds the queue full fails at once, with the reason."""

    async def main() -> None:
        slots = limit(queue=queue)
        waiting = [asyncio.create_task(slots.acquire(KEY)) for _ in range(1 + queue)]
        await settle()
        with pytest.raises(LimitExceededError) as raised:
            await slots.acquire(KEY)
        assert str(raised.value) == says
        for _ in waiting:
            slots.release(KEY)
            await settle()
        await asyncio.gather(*waiting)
        assert len(slots) == 0

    run(main)


@pytest.mark.parametrize(("wait", "says"), [(0.0, "waited 0s"), (0.001, "waited 0.001s")])
def test_waited(wait: float, says: str) -> None:
    """A call that gets no slot in time fails, and leaves the queue."""

    async def main() -> None:
        slots = limit(wait=wait)
        await slots.acquire(KEY)
        with pytest.raises(LimitExceededError) as raised:
            await slots.acquire(KEY)
        assert str(raised.value) == says
        assert (slots.in_flight, slots.waiting) == (1, 0)
        slots.release(KEY)
        assert len(slots) == 0

    run(main)


def test_cancelled() -> None:
    """A cancelled call leaves the queue; those after it keep their order."""

    async def main() -> None:
        slots = limit()
        await slots.acquire(KEY)
        calls = [asyncio.create_task(slots.acquire(KEY)) for _ in range(3)]
        await settle()
        calls[0].cancel()
        calls[1].cancel()
        await settle()
        assert slots.waiting == 1
        slots.release(KEY)
        await calls[2]
        slots.release(KEY)
        assert len(slots) == 0

    run(main)


@pytest.mark.parametrize("behind", [0, 1])
def test_cancelled_with_a_slot(behind: int) -> None:
    """A slot given to a call that is cancelled in the same iteration goes to the next."""

    async def main() -> None:
        slots = limit()
        await slots.acquire(KEY)
        call = asyncio.create_task(slots.acquire(KEY))
        others = [asyncio.create_task(slots.acquire(KEY)) for _ in range(behind)]
        await settle()
        slots.release(KEY)
        call.cancel()
        await settle()
        assert call.cancelled()
        assert slots.in_flight == behind
        for other in others:
            await other
            slots.release(KEY)
        assert len(slots) == 0

    run(main)


def test_released_to_a_cancelled_call() -> None:
    """The last slot, released while the only waiting call is cancelled, is free."""

    async def main() -> None:
        slots = limit()
        await slots.acquire(KEY)
        call = asyncio.create_task(slots.acquire(KEY))
        await settle()
        call.cancel()
        slots.release(KEY)
        await settle()
        assert call.cancelled()
        assert len(slots) == 0

    run(main)


@pytest.mark.parametrize("seed", range(20))
def test_never_too_many(seed: int) -> None:
    """However calls start, end and are cancelled: never too many in flight, and nothing is left."""

    async def main() -> None:
        dice = random.Random(seed)
        slots = limit(in_flight=2, queue=4, wait=dice.choice([None, 0.0, 0.0001]))
        inside = dict.fromkeys("ab", 0)

        async def call(key: str) -> None:
            try:
                await slots.acquire(key)
            except LimitExceededError:
                return
            inside[key] += 1
            try:
                assert inside[key] <= 2
                for _ in range(dice.randrange(4)):
                    await asyncio.sleep(0)
            finally:
                inside[key] -= 1
                slots.release(key)

        calls = []
        for _ in range(200):
            calls.append(asyncio.create_task(call(dice.choice("ab"))))
            if dice.random() < 0.3:
                dice.choice(calls).cancel()
            if dice.random() < 0.5:
                await asyncio.sleep(0)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError}
        assert (len(slots), slots.in_flight, slots.waiting) == (0, 0, 0)

    run(main)


def facts(
    path: bytes = b"/runtime.v1.ImageService/PullImage",
    caller: Peer = Peer(pid=1, uid=0, gid=0, executable="/usr/bin/kubelet"),  # noqa: B008 - frozen
    pod: Pod | None = None,
) -> Facts:
    return Facts(method_name=resolve(path), listener="kubelet", caller=caller, pod=pod)


@pytest.mark.parametrize(
    ("per", "one", "other", "same"),
    [
        (None, facts(), facts(b"/runtime.v1.RuntimeService/Version"), True),
        ("method", facts(), facts(b"/runtime.v1alpha2.ImageService/PullImage"), True),
        ("method", facts(), facts(b"/runtime.v1.RuntimeService/Version"), False),
        ("caller", facts(), facts(caller=Peer(2, 0, 0, "/usr/bin/kubelet")), True),
        ("caller", facts(), facts(caller=Peer(2, 0, 0, "/usr/bin/crictl")), False),
        ("caller", facts(), facts(caller=Peer(2, 5, 0, "/usr/bin/kubelet")), False),
        ("pod", facts(), facts(), True),
        ("pod", facts(pod=Pod("1", "a", "n", "u")), facts(pod=Pod("2", "a", "n", "u")), True),
        ("pod", facts(pod=Pod("1", "a", "n", "u")), facts(pod=Pod("1", "b", "n", "u")), False),
        ("pod", facts(pod=Pod("1", "a", "n", "u")), facts(), False),
    ],
)
def test_key(
    per: Literal["method", "caller", "pod"] | None, one: Facts, other: Facts, same: bool
) -> None:
    """The key is the rule, a method, a program of a user, or a pod of Kubernetes."""
    slots = ConcurrencyLimit(LimitSpec(in_flight=1, per=per))
    assert (slots.key(one) == slots.key(other)) is same


def test_keys_are_independent() -> None:
    """Calls of different keys do not wait for each other."""
    slots = limit()
    assert slots.try_acquire("a")
    assert slots.try_acquire("b")
    assert not slots.try_acquire("a")
