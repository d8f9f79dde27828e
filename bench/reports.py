"""Measures how long a report takes, and how much memory, by the number of calls.

``python -m bench.reports`` makes a call log of a million calls, and has ``criproxy report`` read
it: once, and with ``--times`` through links, as a log that is as many times as large. It prints the
wall time, the CPU time and the most memory of each run, and leaves no file behind.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Final

from tests.report.made import IMAGE, RUNTIME, call

_CALLS: Final = 1_000_000
_METHODS: Final = (
    *((RUNTIME, name) for name in ("ListContainers", "ListPodSandbox", "ContainerStatus")),
    *((RUNTIME, name) for name in ("PodSandboxStatus", "ExecSync", "Status")),
    (IMAGE, "ImageStatus"),
)
_RATE: Final = 50.0
"""Calls a second."""


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--calls", type=int, default=_CALLS)
    arguments.add_argument("--times", type=int, default=1, help="read the log as often")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="criproxy-bench-") as directory:
        log = _made(Path(directory), options.calls)
        logs = [log]
        for number in range(1, options.times):
            logs.append(log.with_name(f"log{number}.jsonl"))
            logs[-1].symlink_to(log)
        size = log.stat().st_size
        million = f"{size / 1e9:.1f} GB"
        for form in (["-o", "json"], ["-o", str(log.with_suffix(".html"))], ["--compat"]):
            _measure(f"{million}, {' '.join(form)[:9]}", [log, *form])
        _measure(f"{million}, --against itself", [log, "--against", log, "-o", "json"])
        if options.times > 1:
            _measure(f"{options.times * size / 1e9:.1f} GB, -o json", [*logs, "-o", "json"])


def _made(directory: Path, number: int) -> Path:
    """Write a log of calls; most of a line is encoded once for each method and pod."""
    random, path = Random(1), directory / "log.jsonl"
    lines = []
    for service, method in _METHODS:
        for pod in range(30):
            line = call(method, service=service, namespace="shop", pod=f"web-{pod}", pod_uid="u")
            line |= {"began": "BEGAN", "duration_s": "DURATION", "response_bytes": "BYTES"}
            lines.append(json.dumps(line))
    with path.open("w") as file:
        for each in range(number):
            microseconds = int(each / _RATE * 1e6)
            seconds = time.gmtime(1_795_000_000 + microseconds // 1_000_000)
            began = time.strftime("%Y-%m-%dT%H:%M:%S", seconds)
            text = random.choice(lines).replace("BEGAN", f"{began}.{microseconds % 1_000_000:06}Z")
            text = text.replace('"DURATION"', f"{random.lognormvariate(-6, 1):.6f}")
            file.write(text.replace('"BYTES"', str(random.randrange(100_000))) + "\n")
    return path


def _measure(name: str, arguments: list[object]) -> None:
    command = [sys.executable, "-m", "criproxy", "report", *map(str, arguments)]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{name}: exit status {process.returncode}")
    took, cpu = time.monotonic() - began, usage.ru_utime + usage.ru_stime
    print(f"{name}: {took:.1f} s, {cpu:.1f} s of CPU, {usage.ru_maxrss >> 10} MiB", flush=True)


if __name__ == "__main__":
    main()
