"""The budget of held bytes: limits, shares and the time limit."""

import pytest

from criproxy.wire.intercept.held_bytes import ConnectionBudget, HeldBytesBudget

KIB = 1 << 10
MIB = 1 << 20


def test_limits() -> None:
    """What exceeds the limit of a stream, of the connection or of all is refused by that limit."""
    budget = HeldBytesBudget(stream_limit=10, total_limit=100, connection_limit=30)
    one, other = ConnectionBudget(budget), ConnectionBudget(budget)
    assert one.exceeded_by(4, 6) == 0
    assert one.exceeded_by(4, 7) == 10
    one.add(25)
    assert one.exceeded_by(0, 5) == 0
    assert one.exceeded_by(0, 6) == 30
    other.add(75)
    assert one.exceeded_by(0, 1) == 100
    other.add(-75)
    assert one.exceeded_by(0, 1) == 0
    one.add(-25)
    assert budget.bytes == 0


@pytest.mark.parametrize(
    ("stream", "total", "share"), [(16 * MIB, 64 * MIB, 17 * MIB), (2, 100, 25), (48, 100, 51)]
)
def test_default_share(stream: int, total: int, share: int) -> None:
    """The share of a connection is a quarter of the total, at least a stream's and a sixteenth."""
    assert HeldBytesBudget(stream, total).connection_limit == share


def filled(budget: HeldBytesBudget, connections: int, step: int = 16 * KIB) -> list[int]:
    """Have connections hold all that they may, one after the other; return what each holds."""
    held = []
    for _ in range(connections):
        one = ConnectionBudget(budget)
        while not one.exceeded_by(0, step):
            one.add(step)
        held.append(one.bytes)
    return held


def test_reserve() -> None:
    """Connections that hold all they may leave room for messages of usual size on others."""
    budget = HeldBytesBudget()
    held = filled(budget, 20)
    assert held[:2] == [17 * MIB] * 2
    assert held == sorted(held, reverse=True)
    assert held[3] < 8 * MIB
    assert held[-1] >= 32 * KIB
    assert budget.bytes < budget.total_limit


def test_time_limit() -> None:
    """A wait is ended at the first tick after its time limit; others go on."""
    budget = HeldBytesBudget(time_limit=60.0)
    expired: list[tuple[str, float]] = []
    for key, since in (("a", 0.0), ("b", 1.0), ("c", 30.0)):
        budget.await_rest(key, since, lambda now, key=key: expired.append((key, now)))  # type: ignore[misc]
    assert budget.is_awaited("b")
    budget.rest_arrived("b")
    budget.rest_arrived("never")
    budget.tick(59.9)
    assert expired == []
    budget.tick(60.5)
    assert expired == [("a", 60.5)]
    budget.await_rest("c", 61.0, lambda now: expired.append(("c again", now)))
    budget.tick(100.0)
    assert len(expired) == 1
    budget.tick(200.0)
    assert expired[1:] == [("c again", 200.0)]
    assert not budget.is_awaited("c")


def test_wait_that_begins_again() -> None:
    """A wait that begins again when it is ended is ended at a later tick, not at the same one."""
    budget = HeldBytesBudget(time_limit=60.0)
    times: list[float] = []

    def expired(now: float) -> None:
        times.append(now)
        budget.await_rest("key", now, expired)

    budget.await_rest("key", 0.0, expired)
    for now in (60.0, 61.0, 120.0):
        budget.tick(now)
    assert times == [60.0, 120.0]
