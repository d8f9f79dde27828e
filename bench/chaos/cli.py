"""The command ``python -m bench.chaos``."""

import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Final

import click
import msgspec

from bench.chaos import attacks, faults, kills, memory, outages, restarts, soak
from bench.chaos.report import Report, merge, render
from bench.chaos.sizes import QUICK, Sizes
from bench.running import work_directory

HERE: Final = Path(__file__).parents[1]
PAGE: Final = HERE / "RELIABILITY.md"
RAW: Final = HERE / ".work" / "chaos.json"

Section = Callable[[Path, Sizes], Report]
SECTIONS: Final[Mapping[str, Section]] = {
    "restarts": restarts.restarts,
    "upgrades": restarts.upgrades,
    "reloads": restarts.reloads,
    "kills": kills.kills,
    "outages": outages.outages,
    "attacks": attacks.attacks,
    "faults": faults.faults,
    "memory": memory.memory,
    "soak": soak.soak,
}
"""The sections, in the order of the page."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--section",
    "names",
    multiple=True,
    type=click.Choice(list(SECTIONS)),
    help="Run this section alone; may be repeated. The page keeps the others' last results.",
)
@click.option("--quick", is_flag=True, help="A short form of each: does everything work?")
@click.option("--dry-run", is_flag=True, help="Print the page, and do not write it.")
def main(names: tuple[str, ...], quick: bool, dry_run: bool) -> None:
    """Restart, upgrade, kill, attack and starve criproxy under load, and write RELIABILITY.md.

    Sizes are set by the environment: CHAOS_RESTARTS, CHAOS_UPGRADES, CHAOS_RELOADS, CHAOS_KILLS,
    CHAOS_OUTAGES, CHAOS_ATTACK_CALLS, CHAOS_SOAK_SECONDS, CHAOS_SOAK_RATE, CHAOS_FAULTS,
    CHAOS_LONG_CALL (seconds). Fails if a claim does not hold.

    \b
    Examples:
      python -m bench.chaos --quick --dry-run
      CHAOS_RESTARTS=20 python -m bench.chaos --section restarts
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        sizes = Sizes.from_environment(QUICK if quick else None)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    reports = []
    for name in names or SECTIONS:
        click.secho(f"{name} ...", fg="cyan", err=True)
        reports.append(run(name, sizes))
    if dry_run:
        click.echo(render(reports))
    else:
        PAGE.write_text(render(merge(RAW, reports, list(SECTIONS))))
    failed = [verdict for report in reports for verdict in report.failed]
    for verdict in failed:
        click.secho(f"does not hold: {verdict.claim}: {verdict.measured}", fg="red", err=True)
    sys.exit(1 if failed else 0)


def run(name: str, sizes: Sizes) -> Report:
    """Run one section in a directory of its own."""
    began = time.monotonic()
    load = f"load average of {os.getloadavg()[0]:.1f} at the beginning"
    with work_directory() as directory:
        report = SECTIONS[name](directory, sizes)
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    machine = f"{day}, {len(os.sched_getaffinity(0))} cores, Linux {platform.release()}, {load}"
    return msgspec.structs.replace(report, seconds=time.monotonic() - began, machine=machine)


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)
