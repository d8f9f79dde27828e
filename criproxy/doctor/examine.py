"""Every check, one after the other."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from criproxy.config.schema import Config
from criproxy.doctor.checks import connections, kubelet, listeners, mounts, sockets
from criproxy.doctor.checks import proxy as own
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
    own.check,
)


def examine(system: System, config: Config, runtimes: Sequence[Endpoint]) -> list[Finding]:
    """Examine a node: what stands between criproxy and all that its runtimes are asked for."""
    facts = gather(system, config, runtimes)
    return [finding for check in CHECKS for finding in check(facts)]
