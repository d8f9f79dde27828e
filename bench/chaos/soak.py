"""Measures growth over an hour of load with events, reloads, upgrades and slow clients."""

import os
import signal
import socket
import time
from pathlib import Path
from typing import Final

from bench.chaos.load import Load, describe
from bench.chaos.node import Node
from bench.chaos.report import Report, Verdict
from bench.chaos.sizes import Sizes
from bench.processes import MIB, has_ended
from tests.attacks.inputs import unread_lists
from tests.support import wire
from tests.support.raw_sockets import dial
from tests.support.waiting import wait_until

SAMPLES: Final = 20
FLAT_MIB: Final = 4.0
FLAT_COUNT: Final = 10
SLOW_CLIENTS: Final = 3
DRAIN_SECONDS: Final = 3


def soak(directory: Path, sizes: Sizes) -> Report:
    """Calls at a steady rate with a stream of events, slow clients, reloads and upgrades.

    Between two samples the configuration is reloaded, or the daemon is upgraded; a sample is taken
    once the processes of before have ended. Growth is counted from the first fifth on.
    """
    rows: list[list[str]] = []
    samples: list[tuple[float, int, int]] = []
    # Slow clients' calls never end by themselves: a drain cuts them.
    config = {"limits": {"drain_timeout": f"{DRAIN_SECONDS}s"}}
    with Node(directory, kept=False, config=config) as node:
        slow: list[socket.socket] = []
        began = time.monotonic()
        with Load(node.endpoint, rate=sizes.soak_rate) as load:
            for number in range(SAMPLES):
                slow = _slow_clients(node, slow)
                _wait_until_time(began + sizes.soak_seconds * (number + 1) / SAMPLES)
                _event(node, number)
                sample = node.memory() / MIB, node.descriptors(), node.threads()
                samples.append(sample)
                done = time.monotonic() - began
                memory, descriptors, threads = sample
                rows.append(
                    [
                        f"{done:.0f} s",
                        str(load.completed()),
                        f"{memory:.1f} MiB",
                        str(descriptors),
                        str(threads),
                    ]
                )
            record = load.record
        for sock in slow:
            sock.close()
    failed = record.failures
    verdicts = [
        Verdict("no call fails in the long run", f"{len(failed)}: {describe(failed)}", not failed),
        *(
            _flat(name, unit, [sample[at] for sample in samples], limit)
            for at, (name, unit, limit) in enumerate(
                (
                    ("memory", " MiB", FLAT_MIB),
                    ("descriptors", "", FLAT_COUNT),
                    ("threads", "", FLAT_COUNT),
                )
            )
        ),
    ]
    about = (soak.__doc__ or "").replace("\n    ", "\n")
    header = ["after", "calls", "memory", "descriptors", "threads"]
    return Report("soak", "The long run", about, header, rows, verdicts)


def _event(node: Node, number: int) -> None:
    """Reload the configuration, or upgrade the daemon, and wait until that is done."""
    before = set(node.processes())
    if number % 4 == 3:
        supervisor = node.pid
        os.kill(supervisor, signal.SIGUSR2)
        wait_until(lambda: node.pid != supervisor, "successor")
        wait_until(lambda: all(map(has_ended, before)), "end of the processes of before")
    else:
        os.kill(node.pid, signal.SIGHUP)


def _slow_clients(node: Node, before: list[socket.socket]) -> list[socket.socket]:
    """Close slow clients, and open others once the daemon has closed them as well: they ask for
    lists and do not read them."""
    for sock in before:
        sock.close()
    if before:
        wait_until(
            lambda: node.daemon.metric("criproxy_connections", listener=node.scoped) == 0,
            "end of the slow clients of before",
        )
    found = []
    for _ in range(SLOW_CLIENTS):
        sock = dial(node.directory / "scoped.sock")
        chunks = unread_lists("v1")
        sock.sendall(wire.PREFACE + wire.settings() + b"".join(next(chunks) for _ in range(20)))
        found.append(sock)
    return found


def _wait_until_time(due: float) -> None:
    time.sleep(max(0.0, due - time.monotonic()))


def _flat(name: str, unit: str, values: list[float], limit: float) -> Verdict:
    """Return whether the largest of the last fifth is about that of the second fifth."""
    fifth = len(values) // 5
    growth = max(values[-fifth:]) - max(values[fifth : 2 * fifth])
    return Verdict(f"{name} stay flat in the long run", f"{growth:+.1f}{unit}", growth <= limit)
