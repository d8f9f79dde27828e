"""``criproxy top``: what a running daemon is doing now."""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Final

import click

from criproxy.cli.support.admin_client import AdminClient, admin_endpoint, admin_options
from criproxy.cli.support.options import output_option, seconds_option
from criproxy.errors import UnavailableError, UsageError

_EPILOG: Final = """\
\b
Examples:
  criproxy top
  criproxy top --admin /run/criproxy-admin/admin.sock --window 5m
  criproxy top --once
  criproxy top --once -o json | jq '.pods[].cause.text'

\b
Exit status: 0 success, 1 the daemon does not answer or the screen cannot be shown, 2 an option is
wrong.
"""

_WINDOW: Final = 60.0
"""Seconds of the screen's window by default."""


@click.command("top", epilog=_EPILOG, short_help="Show what a running daemon is doing now.")
@admin_options
@click.option("--once", is_flag=True, help="Print what there is, and end.")
@seconds_option(
    "--window",
    "The time that rates and quantiles are about: 10s, 5m.  [default: 1m; with --once, since the "
    "daemon started]",
)
@seconds_option("--interval", "The time between two looks of the screen.", "2s")
@output_option("With --once: tables")
def command(
    admin: str | None,
    config: Path | None,
    once: bool,
    window: float | None,
    interval: float,
    output: str,
) -> None:
    """Show the calls in flight, the oldest first, methods with rates, errors and quantiles of the
    duration, and the pods that are starting with the phase that they are in.

    It reads the daemon's admin socket. Calls that count as slow (slow.threshold) are red and marked
    with !. Keys: tab changes the table, s its order, / filters, p pauses, enter shows all of a call
    or a pod, q quits. Rates and quantiles are about a window of time; quantiles are estimated from
    histograms, as Prometheus does. With --once --window, it waits for as long.
    """
    if output == "json" and not once:
        raise UsageError("-o json is for --once; add it")
    if interval <= 0:
        raise UsageError("--interval has to be more than 0")
    client = AdminClient(admin_endpoint(admin, config))
    if once:
        from criproxy.overview.figures import figures

        before = None
        if window:
            before = client.get("state")
            time.sleep(window)
        _print(figures(client.get("state"), before), output)
        return
    client.get("state")  # what is wrong is told before the screen is opened
    screen = _screen()
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("the screen needs a terminal; use --once")
    screen(lambda: client.get("state"), window or _WINDOW, interval).run()


def _screen() -> Any:
    try:
        from criproxy.top.screen import TopScreen
    except ImportError as error:
        raise UnavailableError(
            f"the screen needs textual ({error}); install criproxy[top], or use --once"
        ) from error
    return TopScreen


def _print(found: dict[str, Any], output: str) -> None:
    if output == "json":
        click.echo(json.dumps(found))
        return
    from criproxy.cli.support.tables import print_table
    from criproxy.overview.tables import CALLS, METHODS, PODS, summary, table

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    click.echo(summary(found))
    for each in (CALLS, METHODS, PODS):
        rows, styles = table(each, found)
        if len(rows) > 1:
            click.echo()
            print_table(rows, width, styles)
