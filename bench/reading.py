"""Measures the CPU time of reading a call's bytes, interpreted and compiled.

``python -m bench.reading`` reads recorded connections of a kubelet with ConnectionReader, as the
notifier does, in processes by turns: with this tree's modules, which are interpreted, and with
those of ``build/compiled``, which ``make test-compiled`` makes. It prints microseconds a call, as
median, least and most of the rounds, and the ratio of the medians. It writes no file.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
COMPILED: Final = ROOT / "build" / "compiled"
_ROUNDS: Final = 7
_REPEATS: Final = 20
"""How often each process reads each connection."""


def main() -> None:
    """Measure and print, or with ``--once`` measure in this process and print JSON."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=_ROUNDS)
    arguments.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.once:
        print(json.dumps(_measure()))
        return
    if not COMPILED.exists():
        sys.exit(f"{COMPILED} is missing; make test-compiled TESTS=tests/test_compiled.py makes it")
    builds = {"interpreted": ROOT, "compiled": COMPILED}
    found: dict[str, list[float]] = {name: [] for name in builds}
    for _ in range(options.rounds):
        for name, tree in builds.items():
            found[name].append(_measured_in(tree))
    for name, figures in found.items():
        spread = f"{min(figures):.2f} to {max(figures):.2f}"
        print(f"{name}: {median(figures):.2f} µs of CPU a call ({spread})")
    print(f"ratio: {median(found['compiled']) / median(found['interpreted']):.2f}")


def _measured_in(tree: Path) -> float:
    """Measure in a process whose modules are those of a tree."""
    command = [sys.executable, "-m", "bench.reading", "--once"]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(
        command, cwd=tree, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    microseconds: float = json.loads(done.stdout)
    return microseconds


def _measure() -> float:
    """Return the microseconds of CPU that a call of a recorded kubelet takes."""
    from criproxy.wire.reading.connection import CallEnded, ConnectionReader
    from tests.support.captures import NAMES, capture

    conversations = [capture(name) for name in NAMES if name.startswith("kubelet")]
    calls = 0
    began = time.process_time()
    for _ in range(_REPEATS):
        for conversation in conversations:
            reader = ConnectionReader()
            for sent in conversation:
                events = reader.receive(sent.side, sent.data, sent.now)
                calls += sum(isinstance(event, CallEnded) for event in events)
    return (time.process_time() - began) / calls * 1e6


if __name__ == "__main__":
    main()
