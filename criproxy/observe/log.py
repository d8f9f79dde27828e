"""The daemon's log: structlog, as JSON lines or for a person, through a LineWriter."""

from collections.abc import Callable, MutableMapping
from typing import Any, Final

import msgspec
import structlog

from criproxy.observe.writer import LineWriter

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
"""The levels by name, with logging's numbers."""


Log = structlog.typing.FilteringBoundLogger
"""What the rest of the daemon logs with."""


class _ToWriter:
    """What structlog gives its finished lines to."""

    def __init__(self, writer: LineWriter) -> None:
        self._write = writer.write

    def msg(self, line: bytes) -> None:
        self._write(line + b"\n")

    debug = info = warning = error = msg


def make_renderer(
    form: str, colours: bool
) -> Callable[[Any, str, MutableMapping[str, Any]], bytes]:
    """Return the processor that makes a line of an event: ``json`` or ``console``."""
    if form == "json":
        encode = msgspec.json.Encoder().encode
        return lambda logger, name, event: encode(event)
    console = structlog.dev.ConsoleRenderer(colors=colours, pad_event_to=0)
    return lambda logger, name, event: console(logger, name, event).encode()


def make_log(writer: LineWriter, form: str, level: str, colours: bool) -> Log:
    """Make a logger of its own; nothing global is configured.

    ``form`` is ``json`` or ``console``; ``level`` one of LEVELS; ``colours`` for the console.
    """
    log: Log = structlog.wrap_logger(
        _ToWriter(writer),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            make_renderer(form, colours),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        cache_logger_on_first_use=True,
    )
    return log
