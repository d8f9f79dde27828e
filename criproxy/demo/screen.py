"""How the demo looks: lines that scroll, then a table; colours on a terminal alone."""

import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

import click

from criproxy.cri.methods import READS
from criproxy.demo.summary import Row

_CALL: Final = "{:<12}  {:<18}  {:<9}  {:<18}  {:>9}"
_ROW: Final = "{:<18}  {:>5}  {:>6}  {:>8}  {:>8}  {:>8}  {:>7}  {:>6}"


class Screen:
    """Writes to stdout. Once nobody reads there any more, ``gone`` is called and it is quiet."""

    def __init__(self, gone: Callable[[], None]) -> None:
        self._gone = gone
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
            self._gone()

    def heading(self) -> None:
        """Write what stands above the calls."""
        self.say(_CALL.format("TIME", "METHOD", "POD", "CODE", "LATENCY"), bold=True)

    def call(self, method: str, pod: str, code: str, seconds: float) -> None:
        """Write a call's line when it has ended."""
        now = datetime.now().astimezone().strftime("%H:%M:%S.%f")[:-3]
        line = _CALL.format(now, method, pod or "-", code, duration(seconds))
        if code != "OK":
            self.say(line, fg="red")
        elif method in READS:
            self.say(line, dim=True)
        else:
            self.say(line)

    def table(self, found: Sequence[Row]) -> None:
        """Write what the proxy saw, by method."""
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
    """Write a duration in the unit that suits it, three digits at least."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.2f} s"
