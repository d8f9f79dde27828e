"""Prints the demo's calls and tables, with colours on a terminal only."""

import json
import os
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import click

from criproxy.cri.methods import READS
from criproxy.demo.summary import Row

_CALL: Final = "{:<12}  {:<18}  {:<10}  {:<18}  {:>9}"
_WIDTH: Final = 100
"""Characters of a line of text."""
_TIME_WIDTH: Final = 14
"""Characters of the first column of calls."""
_ROW: Final = "{:<18}  {:>5}  {:>6}  {:>8}  {:>8}  {:>8}  {:>7}  {:>6}"


class Screen:
    """Writes to stdout. On a closed pipe it calls ``on_closed`` and writes no more."""

    def __init__(self, on_closed: Callable[[], None]) -> None:
        self._on_closed = on_closed
        self._open = True
        self._colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def say(self, text: str = "", **style: Any) -> None:
        """Write a line; ``style`` is as for click.style."""
        if not self._open:
            return
        try:
            click.echo(click.style(text, **style) if style and self._colours else text)
        except BrokenPipeError:
            self._open = False
            # The interpreter flushes stdout once more at exit, into nothing.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self._on_closed()

    def heading(self) -> None:
        """Write the header of the calls."""
        self.say(_CALL.format("TIME", "METHOD", "POD", "CODE", "LATENCY"), bold=True)

    def call(self, method: str, pod: str, code: str, seconds: float) -> None:
        """Write the line of a call that has ended."""
        now = datetime.now().astimezone().strftime("%H:%M:%S.%f")[:-3]
        line = _CALL.format(now, method, pod or "-", code, duration(seconds))
        if code != "OK":
            self.say(line, fg="red")
        elif method in READS:
            self.say(line, dim=True)
        else:
            self.say(line)

    def explain(self, text: str) -> None:
        """Write a text below the line of a call."""
        self._wrapped(text, _TIME_WIDTH)

    def record(self, record: Mapping[str, Any]) -> None:
        """Write a record of the audit log, over several lines."""
        self._wrapped(json.dumps(record), 2)

    def _wrapped(self, text: str, indent: int) -> None:
        for line in textwrap.wrap(text, _WIDTH - indent, break_on_hyphens=False):
            self.say(" " * indent + line)

    def table(self, found: Sequence[Row]) -> None:
        """Write the table of methods."""
        heading = ("METHOD", "CALLS", "ERRORS", "P50", "P95", "P99", "ADDED", "SHARE")
        self.say(_ROW.format(*heading), bold=True)
        for row in found:
            latency = ("-",) * 3 if row.latency is None else map(duration, row.latency)
            share = "-" if row.share is None else f"{row.share:.1%}"
            line = _ROW.format(
                row.method, row.calls, row.errors, *latency, duration(row.added), share
            )
            self.say(line, **({"fg": "red"} if row.errors else {}))


def duration(seconds: float) -> str:
    """Format a duration in µs, ms or s, whichever fits."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.2f} s"
