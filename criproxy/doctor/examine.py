"""Runs every check of ``criproxy doctor`` in order."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from criproxy.config.schema import Config
from criproxy.doctor.checks import connections, kubelet, listeners, mounts, proxy, sockets
from criproxy.doctor.findings import Finding
from criproxy.doctor.node.facts import Facts, gather
from criproxy.doctor.node.system import System
from criproxy.relay.endpoints import Endpoint

CHECKS: Final[Sequence[Callable[[Facts], Iterable[Finding]]]] = (
    connections.check,
    sockets.check,
    listeners.check,
    kubelet.check,
    mounts.check,
    proxy.check,
)


def examine(
    system: System, config: Config, runtimes: Sequence[Endpoint], configured: bool = True
) -> list[Finding]:
    """Gather the node's facts and return the findings of every check.

    ``configured``: whether ``config`` was read from a file.
    """
    facts = gather(system, config, runtimes, configured)
    return [finding for check in CHECKS for finding in check(facts)]
