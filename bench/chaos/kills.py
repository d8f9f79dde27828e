"""Kills each kind of process under load, and measures which calls fail and for how long."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from bench.chaos.load import EndedCall, Load, describe
from bench.chaos.node import Node
from bench.chaos.report import Report, Verdict
from bench.chaos.sizes import Sizes
from bench.processes import has_ended
from tests.support.waiting import wait_until

KINDS: Final = ("full", "scoped", "audit", "spawn", "supervisor")
"""The processes by their names in ps(1): criproxy:full, criproxy:audit (the recorder) and so on."""
NOTICE_SECONDS: Final = 0.1
AUDIT: Final[dict[str, Any]] = {
    "policy": [{"level": "Metadata"}],
}


def kills(directory: Path, sizes: Sizes) -> Report:
    """Each kind of process is killed; a new supervisor is started by what plays systemd.

    Calls count as in flight if they began before the process was gone, or within a tenth of a
    second after it: until then a client may write to a connection whose end it has not read yet.
    """
    sink = {"file": {"path": str(directory / "audit.jsonl"), "chain": True, "fsync": "interval"}}
    config = {"audit": {**AUDIT, "sinks": [sink]}}
    rows, verdicts = [], []
    with Node(directory, config=config) as node:
        for kind in KINDS:
            rows.append(_kind(node, kind, sizes.kills, verdicts))
        node.daemon.process.signal(signal.SIGTERM)
        node.daemon.process.wait(120)
    verdicts.append(_verify(node.audit))
    header = ["killed", "times", "calls", "failed in flight", "failed later", "next good call"]
    about = (kills.__doc__ or "").replace("\n    ", "\n")
    return Report("kills", "kill -9", about, header, rows, verdicts)


def _kind(node: Node, kind: str, times: int, verdicts: list[Verdict]) -> list[str]:
    """Kill a kind of process so many times; return its row."""
    in_flight: list[EndedCall] = []
    later: list[EndedCall] = []
    waits: list[float] = []
    calls = 0
    for _ in range(times):
        found = [pid for pid, name in node.processes().items() if name.startswith(kind)]
        if not found:
            return [kind, "0", "-", "-", "-", "no such process"]
        with Load(node.endpoint) as load:
            _wait(load, 20)
            killed = time.monotonic()
            os.kill(found[0], signal.SIGKILL)
            wait_until(lambda pid=found[0]: has_ended(pid), "end of a process")
            gone = time.monotonic()
            if kind == "supervisor":
                node.start_daemon()
            _wait(load, 40)
            calls += load.completed()
            record = load.record
        in_flight += [call for call in record.failures if call.began <= gone + NOTICE_SECONDS]
        later += [call for call in record.failures if call.began > gone + NOTICE_SECONDS]
        good = [call.ended for call in record.calls if not call.failed and call.began >= killed]
        waits.append(min(good) - killed)
        wait_until(lambda kind=kind: kind in _kinds(node), f"another {kind}")
    if kind == "full":
        claim = "after kill -9 of the full worker only calls in flight fail"
        verdicts.append(Verdict(claim, f"{len(later)} later: {describe(later)}", not later))
    else:
        claim = f"kill -9 of {kind} fails no call of the full listener"
        failed = [*in_flight, *later]
        verdicts.append(Verdict(claim, f"{len(failed)}: {describe(failed)}", not failed))
    waits.sort()
    next_good = f"median {waits[len(waits) // 2] * 1e3:.0f} ms, worst {waits[-1] * 1e3:.0f} ms"
    return [kind, str(times), str(calls), str(len(in_flight)), str(len(later)), next_good]


def _kinds(node: Node) -> set[str]:
    return {kind for name in node.processes().values() for kind in KINDS if name.startswith(kind)}


def _wait(load: Load, more: int) -> None:
    wanted = load.completed() + more
    wait_until(lambda: load.completed() >= wanted, "calls that end")


def _verify(log: Path) -> Verdict:
    """Return whether the audit log's chain of hashes holds."""
    command = [sys.executable, "-m", "criproxy", "audit", "verify", str(log)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    words = (ran.stdout or ran.stderr).strip().splitlines()
    claim = "the audit log's chain of hashes verifies"
    return Verdict(claim, words[0] if words else "no output", ran.returncode == 0)
