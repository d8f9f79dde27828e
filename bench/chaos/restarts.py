"""Restarts, upgrades and reloads criproxy under load: no call fails or hangs."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench.chaos.load import Load, Record, describe
from bench.chaos.node import Node
from bench.chaos.report import Report, Verdict
from bench.chaos.sizes import Sizes
from tests.support.criproxy import Criproxy
from tests.support.raw_sockets import dial
from tests.support.waiting import wait_until

BETWEEN: Final = 20
"""Number of calls that end between two events."""
DRAINING: Final = 3
"""Maximum number of daemons that drain at the same time."""
HEADER: Final = [
    "",
    "count",
    "calls",
    "failed",
    "hung",
    "p50",
    "p99",
    "worst call",
    "streams ended",
]


def restarts(directory: Path, sizes: Sizes) -> Report:
    """SIGTERM, and a new daemon at once, on sockets that are kept as by systemd."""
    with Node(directory) as node:
        draining: list[Criproxy] = []
        statuses: list[int] = []

        def restart(number: int) -> None:
            draining.append(node.daemon)
            draining[-1].process.signal(signal.SIGTERM)
            node.start_daemon()
            if len(draining) > DRAINING:
                statuses.append(draining.pop(0).process.wait(120))

        record = _under_load(node, sizes.restarts, restart, sizes.long_call)
        statuses += [each.process.wait(120) for each in draining]
    bad = [status for status in statuses if status]
    verdicts = [
        *_verdicts(record, "restarts"),
        Verdict("each daemon exits with status 0", f"{len(bad)} did not", not bad),
    ]
    return _report("restarts", "Restarts", restarts.__doc__, sizes.restarts, record, verdicts)


def upgrades(directory: Path, sizes: Sizes) -> Report:
    """SIGUSR2: a new supervisor takes over the sockets while the old workers drain."""
    with Node(directory, kept=False) as node:

        def upgrade(number: int) -> None:
            before = node.pid
            os.kill(before, signal.SIGUSR2)
            wait_until(lambda: node.pid != before, "successor", report=lambda: _tail(node))

        record = _under_load(node, sizes.upgrades, upgrade, sizes.long_call)
    verdicts = _verdicts(record, "upgrades")
    return _report("upgrades", "Upgrades", upgrades.__doc__, sizes.upgrades, record, verdicts)


def reloads(directory: Path, sizes: Sizes) -> Report:
    """SIGHUP with another listener, and without it again: the workers are replaced."""
    with Node(directory, kept=False) as node:
        listeners: list[dict[str, Any]] = node.content["listeners"]
        path = directory / "more.sock"
        more = {**listeners[0], "endpoint": f"unix://{path}"}

        def reload(number: int) -> None:
            if number % 2:
                node.daemon.reload(listeners=listeners)
                wait_until(lambda: not path.exists(), "end of a listener")
            else:
                node.daemon.reload(listeners=[*listeners, more])
                wait_until(lambda: _listens(path), "new listener", report=lambda: _tail(node))

        record = _under_load(node, sizes.reloads, reload, sizes.long_call)
    verdicts = _verdicts(record, "reloads")
    return _report("reloads", "Reloads", reloads.__doc__, sizes.reloads, record, verdicts)


def _under_load(node: Node, count: int, event: Callable[[int], None], long_call: int) -> Record:
    """Repeat an event under load, each time with a long call in flight; return all calls."""
    with Load(node.endpoint) as load:
        for number in range(count):
            load.long_call(long_call)
            _more_calls(load)
            event(number)
            _more_calls(load)
        return load.record


def _more_calls(load: Load) -> None:
    wanted = load.completed() + BETWEEN
    wait_until(lambda: load.completed() >= wanted, "calls that end")


def _verdicts(record: Record, what: str) -> list[Verdict]:
    failed = record.failures
    return [
        Verdict(f"no call fails across {what}", f"{len(failed)}: {describe(failed)}", not failed),
        Verdict(f"no call hangs across {what}", str(record.hung), not record.hung),
    ]


def _report(
    name: str,
    title: str,
    about: str | None,
    count: int,
    record: Record,
    verdicts: list[Verdict],
) -> Report:
    row = [
        name,
        str(count),
        str(len(record.calls)),
        str(len(record.failures)),
        str(record.hung),
        f"{record.percentile(50) * 1e3:.1f} ms",
        f"{record.percentile(99) * 1e3:.1f} ms",
        f"{record.worst * 1e3:.0f} ms",
        str(record.broken_streams),
    ]
    return Report(name, title, about or "", HEADER, [row], verdicts)


def _listens(path: Path) -> bool:
    dial(path).close()
    return True


def _tail(node: Node) -> str:
    return "\n".join(node.daemon.process.stderr.splitlines()[-20:])
