"""The shares of listeners in the file descriptors."""

import pytest

from criproxy.daemon.worker.limits import ListenerUse, connection_shares

FULL = ListenerUse(scoped=False, split=False)
SCOPED = ListenerUse(scoped=True, split=False)
SPLIT = ListenerUse(scoped=False, split=True)


@pytest.mark.parametrize(
    ("descriptors", "listeners", "shares"),
    [
        (1000, [FULL], [500]),
        (1000, [SCOPED], [500]),
        (900, [SPLIT], [300]),
        (1000, [FULL, FULL], [250, 250]),
        (1200, [FULL, SPLIT], [300, 200]),
        (800, [FULL, SCOPED], [300, 100]),
        (800, [SCOPED, FULL, SCOPED], [50, 300, 50]),
        (0, [FULL, SCOPED], [1, 1]),
        (100, [], []),
    ],
)
def test_shares(descriptors: int, listeners: list[ListenerUse], shares: list[int]) -> None:
    """Listeners of a kind have equal shares; those without restrictions keep three quarters."""
    assert connection_shares(descriptors, listeners) == shares


def test_shares_together() -> None:
    """All listeners at their limits take no more descriptors than there are."""
    listeners = [FULL, SPLIT, SCOPED, SCOPED, ListenerUse(scoped=True, split=True)]
    for descriptors in range(100, 2000, 37):
        shares = connection_shares(descriptors, listeners)
        used = [share * each.per_client for share, each in zip(shares, listeners, strict=True)]
        assert sum(used) <= descriptors
