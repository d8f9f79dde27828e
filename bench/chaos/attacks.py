"""Measures the effect of attacks by a restricted client on a client of the full listener."""

import time
from pathlib import Path
from typing import Final

import grpc

from bench.chaos.report import Report, Verdict
from bench.chaos.sizes import Sizes
from bench.processes import MIB
from criproxy.client import CriClient
from tests.attacks.inputs import ATTACKS, Attack
from tests.attacks.setup import GROWTH, Daemon, attacking

INTERVAL: Final = 0.01
"""Seconds between the beginnings of the calls of the full listener's client."""
DEADLINE: Final = 60.0
FACTOR: Final = 3.0
"""The largest ratio of the p99 during an attack to the p99 without one."""


def attacks(directory: Path, sizes: Sizes) -> Report:
    """A client of the full listener calls Version every 10 ms, without and with each attack.

    Memory is the growth of the proportional set size of all the daemon's processes together.
    The runtime is shared, so the other client also waits for the runtime's work for the attacker,
    mostly where the attacker requests lists of 1 MiB.
    """
    rows, verdicts = [], []
    with Daemon(directory) as daemon:
        for attack in ATTACKS:
            row, verdict = _attack(daemon, attack, directory, sizes.attack_calls)
            rows.append(row)
            verdicts.append(verdict)
    header = ["attack", "p50 alone", "p99 alone", "p50", "p99", "times", "failed", "memory"]
    about = (attacks.__doc__ or "").replace("\n    ", "\n")
    return Report("attacks", "Attacks", about, header, rows, verdicts)


def _attack(
    daemon: Daemon, attack: Attack, directory: Path, count: int
) -> tuple[list[str], Verdict]:
    output = directory / attack.name
    with CriClient(daemon.endpoint("proxy"), timeout=DEADLINE) as client:
        alone, failed_alone, before = _calls(daemon, client, count)
        with attacking(attack, "v1", daemon.path(attack.listener), output):
            during, failed, largest = _calls(daemon, client, count)
    times = during[1] / alone[1]
    growth = largest - before
    row = [
        attack.name,
        *(f"{value * 1e3:.2f} ms" for value in (*alone, *during)),
        f"{times:.1f}",
        str(failed + failed_alone),
        f"{growth / MIB:+.0f} MiB",
    ]
    holds = not failed and times <= FACTOR and growth < GROWTH
    claim = f"{attack.name}: no call fails, p99 at most {FACTOR:g} x, memory bounded"
    return row, Verdict(claim, f"{failed} failed, {times:.1f} x, {growth / MIB:+.0f} MiB", holds)


def _calls(daemon: Daemon, client: CriClient, count: int) -> tuple[tuple[float, float], int, int]:
    """Make calls at the interval; return p50 and p99, the failures, the largest memory."""
    durations, failed, largest = [], 0, 0
    due = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, due - time.monotonic()))
        began = time.monotonic()
        due = max(due + INTERVAL, began)
        try:
            client.Version()
        except grpc.RpcError:
            failed += 1
        durations.append(time.monotonic() - began)
        if number % 50 == 0:
            largest = max(largest, daemon.memory())
    durations.sort()
    return (durations[count // 2], durations[count * 99 // 100]), failed, largest
