"""The command ``python -m bench``: compares criproxy with other proxies."""

import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import click
import msgspec

from bench.contenders import Contender
from bench.report import render
from bench.results import Results
from bench.rounds import Plan, compare
from bench.running import work_directory
from bench.sections import AUDIT, PROXIES, SECTIONS, contenders
from bench.targets import SOAK_CALLS, unaccounted

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
NOTES = HERE / "NOTES.md"
RAW = HERE / ".work" / "results.json"
ROUNDS = 7
QUICK_ROUNDS, QUICK_SOAK_CALLS = 2, 50_000


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--rounds", type=click.IntRange(1), help=f"Rounds to take the median of.  [{ROUNDS}]")
@click.option(
    "--only",
    "names",
    multiple=True,
    metavar="NAME",
    type=click.Choice([which.name for which in contenders(SECTIONS)]),
    help="Compare this contender (and direct) alone; may be repeated.",
)
@click.option(
    "--load",
    "load_names",
    multiple=True,
    metavar="LOAD",
    type=click.Choice([load.name for part in SECTIONS for load in part.loads]),
    help="Use this load alone; may be repeated.",
)
@click.option(
    "--section",
    "section_names",
    multiple=True,
    type=click.Choice([part.name for part in SECTIONS]),
    help="Run this part alone; may be repeated. proxies and audit have a long run.",
)
@click.option(
    "--soak-calls",
    type=click.IntRange(0),
    help=f"Calls of each long run that watches criproxy's memory; 0: none.  [{SOAK_CALLS}]",
)
@click.option("--quick", is_flag=True, help="Two rounds and a short soak: does everything work?")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the page here.  [bench/RESULTS.md for a whole run, nowhere for a part of one]",
)
@click.option("--list", "listing", is_flag=True, help="List the contenders and loads, and end.")
def main(
    rounds: int | None,
    names: tuple[str, ...],
    load_names: tuple[str, ...],
    section_names: tuple[str, ...],
    soak_calls: int | None,
    quick: bool,
    output: Path | None,
    listing: bool,
) -> None:
    """Compare criproxy with other proxies, side by side, in one run.

    Starts a private containerd and the embedded runtime, puts each contender in front of them,
    and gives each a turn under every load, round by round. Prints the figures with ratios and
    targets, and keeps them in bench/RESULTS.md; every round is in bench/.work/results.json.
    Leave the machine alone meanwhile: everything shares its cores. The long runs need 2 GB of
    temporary disk space for their logs. Fails if the audit log lacks a record of a call.

    \b
    Examples:
      python -m bench                                everything, some minutes
      python -m bench --quick                        does it all work?
      python -m bench --section rules                what rules cost, and others' like
      python -m bench --section audit                what an audit log costs, and Envoy's log
      python -m bench --only criproxy --only socat --load go-1 --soak-calls 0
    """
    if listing:
        _list()
        return
    signal.signal(signal.SIGTERM, _terminate)
    wanted = [part for part in SECTIONS if not section_names or part.name in section_names]
    if soak_calls is None:
        soak_calls = QUICK_SOAK_CALLS if quick else SOAK_CALLS
    parts = {part.name for part in wanted}
    plan = Plan(
        [part.only(names, load_names) for part in wanted],
        rounds or (QUICK_ROUNDS if quick else ROUNDS),
        soak_calls if PROXIES in parts else 0,
        soak_calls if AUDIT in parts else 0,
    )
    results = _begin(contenders(plan.sections))
    began = time.monotonic()
    with work_directory() as directory:
        compare(plan, results, directory, _report)
    results.seconds = time.monotonic() - began
    RAW.parent.mkdir(exist_ok=True)
    RAW.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))
    click.echo(render(results, ""))
    cut = names or load_names or section_names
    whole = not (quick or cut) and plan.soak_calls >= SOAK_CALLS
    if output := output or (RESULTS if whole else None):
        output.write_text(render(results, NOTES.read_text()))
        _report(f"written to {output}")
    if wrong := unaccounted(results):
        raise click.ClickException(f"the audit log does not add up: {'; '.join(wrong)}")


def _begin(compared: list[Contender]) -> Results:
    results = Results(
        began=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        facts=_facts(),
        settings={which.name: which.settings for which in compared},
    )
    for which in compared:
        if program := which.program():
            results.versions[which.name] = which.version(program)
    return results


def _facts() -> dict[str, str]:
    facts = {
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": _processor(),
        "kernel": platform.release(),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    if h2load := shutil.which("h2load"):
        ran = subprocess.run([h2load, "--version"], capture_output=True, text=True, check=False)
        facts["h2load"] = ran.stdout.strip()
    return facts


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _list() -> None:
    for part in SECTIONS:
        click.secho(f"{part.name}:", bold=True)
        for which in part.contenders:
            there = "" if which.program() else f"  (not installed: {which.install})"
            click.echo(f"{which.name:20}{which.settings}{there}")
        for load in part.loads:
            times = f"{part.turns} times " if part.turns > 1 else ""
            click.echo(f"{load.name:20}{load.title}; {load.calls} calls {times}a round")
        click.echo()


def _report(text: str) -> None:
    click.secho(text, fg="cyan", err=True)


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)
