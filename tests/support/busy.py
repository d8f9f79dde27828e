"""Runs the tests several times while other processes keep the CPUs busy.

``python -m tests.support.busy --runs 5 --loops 4 --limit 720 -- ARGUMENTS`` runs pytest with these
arguments. Its exit status is 0 if every run passed within the limit, else 1.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

END_SECONDS = 30.0
"""How long pytest may take to end on SIGINT before it is killed."""

_LOOP = """
import sys, time
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    pass
"""


@contextmanager
def busy_loops(count: int, seconds: float) -> Iterator[None]:
    """Keep ``count`` CPUs busy within the block, for at most so many seconds."""
    command = [sys.executable, "-S", "-c", _LOOP, str(seconds)]
    loops = [subprocess.Popen(command, stdin=subprocess.DEVNULL) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def run(arguments: list[str], limit: float) -> tuple[int | None, float]:
    """Run pytest once; return its exit status, None if it was ended at the limit, and seconds."""
    began = time.monotonic()
    # A session of its own: at its end all that the tests have started can be told to end.
    process = subprocess.Popen([sys.executable, "-m", "pytest", *arguments], start_new_session=True)
    try:
        return process.wait(limit), time.monotonic() - began
    except subprocess.TimeoutExpired:
        return None, time.monotonic() - began
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
            with suppress(ProcessLookupError):  # all of them have ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--loops", type=int, default=4)
    parser.add_argument("--limit", type=float, default=720.0, help="seconds for each run")
    parser.add_argument("arguments", nargs="*", metavar="pytest argument")
    options = parser.parse_args()
    results = []
    with busy_loops(options.loops, options.runs * (options.limit + 60)):
        for _ in range(options.runs):
            results.append(run(options.arguments, options.limit))
    for number, (status, seconds) in enumerate(results, 1):
        outcome = {0: "passed", None: "ended at the limit"}.get(status, f"exit status {status}")
        print(f"run {number}: {outcome}, {seconds:.0f} s")
    return int(any(status != 0 for status, _ in results))


if __name__ == "__main__":
    sys.exit(main())
