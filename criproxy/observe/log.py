"""The daemon's log: structlog, as JSON lines or for a person, through a LineWriter."""

from collections.abc import MutableMapping
from typing import Any, Final

import msgspec
import structlog

from criproxy.observe.line_writer import LineWriter

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
"""The levels by name, with logging's numbers."""


Log = structlog.typing.FilteringBoundLogger
"""What the rest of the daemon logs with."""


class DaemonLog:
    """The log and the ways into it. Nothing global is configured.

    ``log`` takes events one by one, as structlog does; :meth:`record` takes structs that are
    lines already, of which there are many.
    """

    def __init__(self, writer: LineWriter, form: str, level: str, colours: bool) -> None:
        """``form`` is ``json`` or ``console``; ``level`` one of LEVELS; ``colours`` for console."""
        self._write = writer.write
        self._encode = msgspec.json.Encoder().encode
        self._console = None if form == "json" else _console_renderer(colours)
        self.log: Log = structlog.wrap_logger(
            _ToWriter(writer),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
                self._render,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
            cache_logger_on_first_use=True,
        )

    def record(self, line: msgspec.Struct) -> None:
        """Write a struct's fields as a line; it has ``timestamp``, ``level`` and ``event`` too."""
        if self._console is None:
            self._write(self._encode(line) + b"\n")
        else:
            fields = msgspec.to_builtins(line)
            self._write(self._render(None, "", fields) + b"\n")

    def confess(self, count: int) -> bytes:
        """Word the line that tells how many lines were lost."""
        return self._render(
            None, "", {"event": "log lines lost", "level": "warning", "count": count}
        )

    def _render(self, logger: Any, name: str, event: MutableMapping[str, Any]) -> bytes:
        if self._console is None:
            return self._encode(event)
        return self._console(logger, name, event).encode()


class _ToWriter:
    """What structlog gives its finished lines to."""

    def __init__(self, writer: LineWriter) -> None:
        self._write = writer.write

    def msg(self, line: bytes) -> None:
        self._write(line + b"\n")

    debug = info = warning = error = msg


def _console_renderer(colours: bool) -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(colors=colours, pad_event_to=0)
