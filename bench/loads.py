"""The loads, and the run of one load against one contender."""

import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, Literal

from bench.load import LARGE_WINDOW, Connection
from bench.processes import cpu_seconds, settle
from bench.running import Running
from bench.wire import DEFAULT_WINDOW, LoadError, prefixed

WARM_UP_SHARE: Final = 10
"""Untimed calls made beforehand: one in so many of the timed ones."""


class Answer(Enum):
    """The response of a load's call: a version of some 40 bytes, or a list of 1 MiB."""

    VERSION = "version"
    LIST = "list"


@dataclass(frozen=True, slots=True)
class Load:
    """One load: ``calls`` a turn, ``at_once`` of them open, for an ``answer``.

    After one that is to ``settle`` a contender is left alone until it is idle, and what it does
    until then, as the writing of records, counts as CPU time of the calls.
    """

    name: str
    title: str
    generator: Literal["grpc-go-like", "h2load"]
    answer: Answer
    at_once: int
    calls: int
    settle: bool = False


LOADS: Final = (
    Load(
        "go-1", "Version, changing headers, one at a time", "grpc-go-like", Answer.VERSION, 1, 3000
    ),
    Load(
        "go-16", "Version, changing headers, 16 at once", "grpc-go-like", Answer.VERSION, 16, 8000
    ),
    Load("h2load-1", "Version, h2load, one at a time", "h2load", Answer.VERSION, 1, 3000),
    Load("h2load-16", "Version, h2load, 16 at once", "h2load", Answer.VERSION, 16, 8000),
    Load("list-1", "a list of 1 MiB, one at a time", "grpc-go-like", Answer.LIST, 1, 60),
    Load("list-16", "a list of 1 MiB, 16 at once", "grpc-go-like", Answer.LIST, 16, 96),
)

RULE_LOADS: Final = (
    Load("rules-1", "rules, Version, one at a time", "grpc-go-like", Answer.VERSION, 1, 100),
    Load("rules-16", "rules, Version, 16 at once", "grpc-go-like", Answer.VERSION, 16, 200),
)
"""As go-1 and go-16, in short turns."""

AUDIT_LOADS: Final = (
    Load("audit-1", "audit, Version, one at a time", "grpc-go-like", Answer.VERSION, 1, 300, True),
    Load("audit-16", "audit, Version, 16 at once", "grpc-go-like", Answer.VERSION, 16, 800, True),
    Load("audit-list-1", "audit, a list of 1 MiB", "grpc-go-like", Answer.LIST, 1, 10, settle=True),
)
"""As go-1, go-16 and list-1, in turns of several times as long as records are gathered before they
are written (20 ms): the writing falls into them."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One run's figures. ``cpu_us`` is the contender's per call, ``own_cpu_us`` the generator's."""

    calls: int
    p50_us: float
    p99_us: float
    calls_per_s: float
    cpu_us: float
    own_cpu_us: float
    errors: dict[str, int]
    goaways: int


def run(load: Load, target: Running, h2load_directory: Path) -> Figures:
    """Put ``load`` on ``target`` once. A run that breaks off has errors only."""
    try:
        if load.generator == "h2load":
            return _h2load(load, target, h2load_directory)
        return _like_grpc_go(load, target)
    except (LoadError, OSError) as error:
        nothing = float("nan")
        return Figures(
            load.calls, nothing, nothing, nothing, nothing, nothing, {str(error): load.calls}, 0
        )


def _like_grpc_go(load: Load, target: Running) -> Figures:
    call = target.call
    window = LARGE_WINDOW if load.answer is Answer.LIST else DEFAULT_WINDOW
    with Connection(target.socket, window=window) as connection:
        warm_up = connection.build(call, load.at_once + load.calls // WARM_UP_SHARE)
        connection.run(call, warm_up, load.at_once)
        requests = connection.build(call, load.calls)
        cpu = _cpu(target)
        outcome = connection.run(call, requests, load.at_once)
        if load.settle and target.pid:
            settle(target.pid)
        cpu = _cpu(target) - cpu
    return _figures(
        load.calls,
        [nanoseconds / 1e3 for nanoseconds in outcome.latencies],
        outcome.elapsed / 1e9,
        cpu,
        outcome.own_cpu / 1e9,
        outcome.errors,
        outcome.goaways,
    )


def _h2load(load: Load, target: Running, directory: Path) -> Figures:
    """Run h2load, which repeats one memoised header block and checks no gRPC status."""
    body, log = directory / "message", directory / "times"
    body.write_bytes(prefixed(target.call.message))
    log.unlink(missing_ok=True)
    command = ["h2load", "--clients=1", "--threads=1", f"--requests={load.calls}"]
    command += [f"--max-concurrent-streams={load.at_once}", f"--base-uri=unix:{target.socket}"]
    command += [f"--data={body}", f"--log-file={log}"]
    for header in ("content-type: application/grpc", "te: trailers", "grpc-timeout: 30S"):
        command.append(f"--header={header}")
    cpu = _cpu(target)
    ran = subprocess.run(
        [*command, f"http://localhost{target.call.path}"],
        check=False,
        capture_output=True,
        text=True,
    )
    cpu = _cpu(target) - cpu
    if ran.returncode:
        raise LoadError(f"h2load: {ran.stderr.strip() or ran.stdout.strip()}")
    # A line a call: when it began (microseconds), its HTTP status, how long it took.
    times = [tuple(map(int, line.split("\t"))) for line in log.read_text().splitlines()]
    if not times:
        raise LoadError("h2load: no call was answered")
    elapsed = max(at + took for at, _, took in times) - min(at for at, _, _ in times)
    errors = Counter(f"HTTP status {status}" for _, status, _ in times if status != 200)
    if left := load.calls - len(times):
        errors["not completed"] += left
    return _figures(load.calls, [took for _, _, took in times], elapsed / 1e6, cpu, 0.0, errors, 0)


def _figures(
    calls: int,
    latencies_us: Sequence[float],
    seconds: float,
    cpu: float,
    own_cpu: float,
    errors: Counter[str],
    goaways: int,
) -> Figures:
    ordered = sorted(latencies_us)
    if not ordered:
        raise LoadError("no call was answered")
    per_call = 1e6 / len(ordered)
    return Figures(
        calls=calls,
        p50_us=ordered[len(ordered) // 2],
        p99_us=ordered[len(ordered) * 99 // 100],
        calls_per_s=len(ordered) / seconds,
        cpu_us=cpu * per_call,
        own_cpu_us=own_cpu * per_call,
        errors=dict(errors),
        goaways=goaways,
    )


def _cpu(target: Running) -> float:
    return cpu_seconds(target.pid) if target.pid else 0.0
