"""Profiles criproxy's CPU time under load: ``python -m bench.profile``; see ``--help``.

It samples from outside with py-spy, which is installed by hand (``pip install py-spy``): the
process under the profiler is the one that the comparison measures, unchanged.
"""

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import click

from bench.contenders import EVERYTHING_ON
from bench.load import Connection
from bench.processes import cpu_seconds
from bench.ruled import WITH_RULES
from bench.running import NotRunningError, containerd, contender, work_directory
from bench.sections import SECTIONS, contenders

BATCH = 20_000
STACKS = Path(__file__).parent / ".work" / "stacks.txt"
PYTHON_CONTENDERS = (
    EVERYTHING_ON,
    "criproxy-default",
    "grpc.aio",
    "grpc.aio-request",
    *sorted(WITH_RULES),
)

WAITS = ("Condition.wait (", "_PollLikeSelector.select (", "wait (", "select (", "poll (")
"""Functions in which a thread sleeps; py-spy takes some of them for busy."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--seconds", default=15, show_default=True, help="How long to sample.")
@click.option("--rate", default=500, show_default=True, help="Samples a second.")
@click.option("--at-once", default=16, show_default=True, help="Calls open at a time.")
@click.option("--top", default=25, show_default=True, help="Rows of each table.")
@click.option("--native", is_flag=True, help="Name the frames of C extensions, uvloop's too.")
@click.option(
    "--contender",
    "name",
    default=EVERYTHING_ON,
    show_default=True,
    type=click.Choice(PYTHON_CONTENDERS),
    help="Which of the proxies in Python.",
)
def main(seconds: int, rate: int, at_once: int, top: int, native: bool, name: str) -> None:
    """Sample a proxy while it relays Version calls with changing headers.

    Prints what share of the samples each function was running in (self) and was on the stack of
    (total). The stacks stay in bench/.work/stacks.txt, in the form that flame graph programs read.

    \b
    Examples:
      python -m bench.profile
      python -m bench.profile --at-once 1 --native
      python -m bench.profile --contender criproxy-request
    """
    sampler = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if sampler is None:
        raise click.ClickException("py-spy is not installed: pip install py-spy")
    command = [sampler, "record", "--duration", str(seconds), "--rate", str(rate)]
    command += ["--format", "raw", "--threads", "--function", "--output", str(STACKS)]
    command += ["--native"] if native else []
    STACKS.parent.mkdir(exist_ok=True)
    try:
        _sample(command, name, at_once)
    except NotRunningError as error:
        raise click.ClickException(str(error)) from None
    everything = dict(_stacks(STACKS.read_text().splitlines()))
    stacks = {stack: count for stack, count in everything.items() if not _waits(stack)}
    waiting = 1 - sum(stacks.values()) / sum(everything.values())
    click.echo(f"left out: {waiting:.0%} of the samples, of threads that wait")
    _table("self", _self(stacks), sum(stacks.values()), top)
    _table("total", _total(stacks), sum(stacks.values()), top)


def _sample(command: list[str], name: str, at_once: int) -> None:
    which = next(one for one in contenders(SECTIONS) if one.name == name)
    with (
        work_directory() as directory,
        containerd(directory / "cd") as backend,
        contender(which, directory / "proxy", backend) as running,
        Connection(running.socket) as connection,
    ):
        assert running.pid is not None
        before = cpu_seconds(running.pid)
        calls, elapsed = 0, 0
        sampler = subprocess.Popen([*command, "--pid", str(running.pid)], stdout=subprocess.DEVNULL)
        try:
            while sampler.poll() is None:
                requests = connection.build(running.call, BATCH)
                outcome = connection.run(running.call, requests, at_once)
                calls += BATCH
                elapsed += outcome.elapsed
        finally:
            sampler.terminate()
            sampler.wait()
        if sampler.returncode:
            raise NotRunningError(f"py-spy ended with status {sampler.returncode}")
        cpu = (cpu_seconds(running.pid) - before) / calls * 1e6
    click.echo(
        f"{name}, {at_once} at once, under the sampler: {calls / (elapsed / 1e9):,.0f} calls/s, "
        f"{cpu:.1f} µs of CPU a call"
    )


def _stacks(lines: Iterable[str]) -> Iterable[tuple[tuple[str, ...], int]]:
    """Read ``outermost;...;innermost count`` lines."""
    for line in lines:
        stack, _, count = line.rpartition(" ")
        yield tuple(stack.split(";")), int(count)


def _waits(stack: tuple[str, ...]) -> bool:
    return stack[-1].startswith(WAITS)


def _self(stacks: dict[tuple[str, ...], int]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for stack, count in stacks.items():
        counts[stack[-1]] += count
    return counts


def _total(stacks: dict[tuple[str, ...], int]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for stack, count in stacks.items():
        for function in set(stack):
            counts[function] += count
    return counts


def _table(title: str, counts: Counter[str], samples: int, top: int) -> None:
    click.echo(f"\n{title:>6}  function")
    for function, count in counts.most_common(top):
        click.echo(f"{count / samples:6.1%}  {function}")


if __name__ == "__main__":
    main(prog_name="python -m bench.profile")
