"""The daemon's log, as the configuration describes it; each process opens it for itself."""

import sys
from collections.abc import Callable

from criproxy.config.schema import LogConfig
from criproxy.observe.logs.line_writer import LineWriter
from criproxy.observe.logs.log import DaemonLog


def open_log(
    config: LogConfig, dropped: Callable[[int], None], log: DaemonLog | None = None
) -> tuple[LineWriter, DaemonLog]:
    """Open the log file, or standard error; ``dropped`` is called with the number of lost lines.

    ``log`` is what writes there from now on, and is returned; None: a new one. Raises
    UnavailableError when the file cannot be opened.
    """
    colours = config.file is None and sys.stderr.isatty()
    form = config.format or ("console" if colours else "json")
    writer = LineWriter(config.file, dropped)
    if log is None:
        log = DaemonLog(writer, form, config.level, colours)
    else:
        log.configure(writer, form, config.level, colours)
    writer.loss_line = log.loss_line
    return writer, log
