"""CallFilter: which calls a user asks for."""

from typing import Any

import pytest

from criproxy.timeline.filters import CallFilter
from criproxy.timeline.logged_call import LoggedCall

PULL = LoggedCall(
    "runtime.v1.ImageService",
    "PullImage",
    began=0.0,
    until=1.5,
    code="NOT_FOUND",
    executable="/usr/bin/kubelet",
    namespace="shop",
    pod="web-1",
)


@pytest.mark.parametrize(
    ("conditions", "selected"),
    [
        ({}, True),
        ({"methods": ("PullImage",)}, True),
        ({"methods": ("List*", "*Image")}, True),
        ({"methods": ("ImageService/*",)}, True),
        ({"methods": ("@mutating",)}, True),
        ({"methods": ("@read", "Exec*")}, False),
        ({"namespaces": ("shop",)}, True),
        ({"namespaces": ("prod", "s*")}, True),
        ({"namespaces": ("sho",)}, False),
        ({"pods": ("web-*",)}, True),
        ({"pods": ("api-*",)}, False),
        ({"callers": ("kubelet",)}, True),
        ({"callers": ("/usr/bin/*",)}, True),
        ({"callers": ("crictl",)}, False),
        ({"codes": ("NOT_FOUND",)}, True),
        ({"codes": ("OK", "!OK")}, True),
        ({"codes": ("!NOT_FOUND",)}, False),
        ({"slower_than": 1.5}, True),
        ({"slower_than": 1.6}, False),
        ({"methods": ("PullImage",), "pods": ("api",)}, False),
    ],
)
def test_conditions(conditions: dict[str, Any], selected: bool) -> None:
    """All conditions have to hold; of the values of one, any."""
    assert CallFilter(**conditions).selects(PULL) is selected


def test_calls_in_flight() -> None:
    """A call that has not ended has no code, not even another than OK."""
    running = LoggedCall("s", "m", 0.0, 9.0, running=True)
    assert not CallFilter(codes=("!OK",)).selects(running)
    assert CallFilter(slower_than=5).selects(running)
