"""The daemon's log: structlog, rendered as JSON or for a console, written by a LineWriter."""

from collections.abc import MutableMapping
from typing import Any, Final

import msgspec

from criproxy.common.optional_modules import hidden
from criproxy.common.printable import printable
from criproxy.observe.logs.call_line import CallLine
from criproxy.observe.logs.line_writer import LineWriter

# structlog would load them for the tracebacks of its own formatters: 4 MiB in each daemon beside
# which somebody has installed rich, as the extra of `criproxy top` does.
with hidden("better_exceptions", "colorama", "rich"):
    import structlog

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
"""The levels by name, with the numbers of the module logging."""


Log = structlog.typing.FilteringBoundLogger
"""The type of the daemon's loggers."""


class DaemonLog:
    """The log, without global configuration.

    ``log`` is a structlog logger; :meth:`record` writes the many lines of calls, which structlog's
    processors would take longer for than all the rest of relaying a call.
    """

    def __init__(self, writer: LineWriter, form: str, level: str, colours: bool) -> None:
        """See :meth:`configure`."""
        self._encode = msgspec.json.Encoder().encode
        self.configure(writer, form, level, colours)
        self.log: Log = structlog.wrap_logger(
            _ToWriter(self),
            processors=[
                self._drop_below_level,
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
                self._render,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(min(LEVELS.values())),
            cache_logger_on_first_use=True,
        )

    def configure(self, writer: LineWriter, form: str, level: str, colours: bool) -> None:
        """Write to ``writer`` from now on, whoever has ``log``.

        ``form`` is ``json`` or ``console``; ``level`` one of LEVELS; ``colours`` for console.
        """
        self._write = writer.write
        self._console = None if form == "json" else _console_renderer(colours)
        self._level = LEVELS[level]

    def write_line(self, line: bytes) -> None:
        """Write a line, without its newline."""
        self._write(line + b"\n")

    def record(self, line: bytes) -> None:
        """Write the line of a call, which is JSON as of a CallLine and without its newline."""
        if self._console is None:
            self._write(line + b"\n")
        else:
            fields = msgspec.to_builtins(msgspec.json.decode(line, type=CallLine))
            self._write(self._render(None, "", fields) + b"\n")

    def loss_line(self, count: int) -> bytes:
        """Return the line, without its newline, that reports ``count`` lost lines."""
        return self._render(
            None, "", {"event": "log lines lost", "level": "warning", "count": count}
        )

    def _drop_below_level(
        self, logger: Any, name: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        if LEVELS[name] < self._level:
            raise structlog.DropEvent
        return event

    def _render(self, logger: Any, name: str, event: MutableMapping[str, Any]) -> bytes:
        if self._console is None:
            return self._encode(event)
        return self._console(logger, name, _printable(event)).encode()


class _ToWriter:
    """The logger that structlog wraps: it writes rendered lines."""

    def __init__(self, log: DaemonLog) -> None:
        self.debug = self.info = self.warning = self.error = log.write_line


def _printable(event: MutableMapping[str, Any]) -> dict[str, Any]:
    """Return an event whose texts cannot steer a terminal: clients choose paths and names.

    The renderer escapes what is within lists and mappings. Tracebacks keep their lines.
    """
    return {
        key: printable(value, "\n" if key == "exception" else "")
        if isinstance(value, str)
        else value
        for key, value in event.items()
    }


def _console_renderer(colours: bool) -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(colors=colours, pad_event_to=0)
