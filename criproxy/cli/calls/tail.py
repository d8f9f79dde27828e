"""``criproxy tail``: calls as they happen, from a log that is being written."""

import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from criproxy.cli.support.admin_client import (
    AdminClient,
    admin_endpoint,
    admin_options,
    lost_calls,
)
from criproxy.cli.support.options import call_options, output_option
from criproxy.cli.support.tables import styled
from criproxy.common.printable import printable
from criproxy.errors import UsageError

if TYPE_CHECKING:
    from criproxy.timeline.filters import CallFilter
    from criproxy.timeline.logged_call import LoggedCall

_EPILOG: Final = """\
\b
Examples:
  criproxy tail
  criproxy tail -n shop --payload
  criproxy tail --where 'method == "PullImage" && duration > duration("5s")'
  criproxy tail --where 'request.config.envs.exists(e, e.key == "HTTP_PROXY")'
  criproxy tail /var/log/criproxy/audit.jsonl
  criproxy tail /var/log/criproxy/criproxy.log --method '*Image' --slower-than 500ms
  criproxy tail /var/log/criproxy/audit.jsonl -n shop --code '!OK' -o json | jq .message
  journalctl -fu criproxy -o cat | criproxy tail -

\b
Exit status: 0 success, 1 the file cannot be read or the daemon does not answer, 2 an option is
wrong.
"""

_POLL: Final = 0.2
"""Seconds between looks at a file that has nothing more."""

_ROW: Final = "{:<12}  {:<22}  {:<18}  {:>9}  {:<12}  {}"


@click.command("tail", epilog=_EPILOG, short_help="Show calls as they happen.")
@click.argument("file", required=False, type=click.Path(path_type=Path, allow_dash=True))
@admin_options
@call_options
@click.option(
    "--where",
    metavar="CEL",
    help="Calls for which an expression holds, on the variables of rules, on code and on duration.",
)
@click.option(
    "--payload",
    is_flag=True,
    help="Show requests and responses, without secrets, as in the audit log.",
)
@click.option("--all", "from_start", is_flag=True, help="Begin with what is in the file already.")
@output_option("Lines")
def command(
    file: Path | None,
    admin: str | None,
    config: Path | None,
    wanted: "CallFilter",
    where: str | None,
    payload: bool,
    from_start: bool,
    output: str,
) -> None:
    """Show calls as they end, until it is interrupted: those of a running daemon, or of FILE.

    Without FILE, they are read from the daemon's admin socket: all calls, whatever its log has. A
    reader that is too slow misses some, which are counted, and delays no call.

    FILE is a call log in JSON or an audit log, which is followed across rotation; - is standard
    input. What the log's level or the audit policy leaves out is not shown; pods are known to the
    call log with log.pods. As JSON, lines are as they are in FILE, or would be in the call log;
    with --payload, or an expression that a line of the call log does not suffice for, they are
    records of the audit log.
    """
    from criproxy.cli.calls.payload_lines import PayloadLines
    from criproxy.timeline.logged_call import NotAJsonObjectError, parse_line

    if file is not None and (admin is not None or config is not None):
        raise UsageError("name either FILE, or the daemon with --admin or -c")
    if file is None and from_start:
        raise UsageError("--all is about what FILE has already; name one")
    condition = None if where is None else _Condition(where, wanted)
    payloads = PayloadLines() if payload and output == "text" else None
    if file is None:
        in_records = payload or (condition is not None and condition.needs_records)
        lines = AdminClient(admin_endpoint(admin, config)).lines(
            "records" if in_records else "tail"
        )
    else:
        lines = _lines_of(file, from_start)
    skipped = lost = 0
    if output == "text":
        heading = _ROW.format("TIME", "METHOD", "CODE", "DURATION", "CALLER", "POD")
        click.echo(styled(heading, {"bold": True}))
    try:
        for text in lines:
            if file is None and (missed := lost_calls(text)):
                lost += missed
                continue
            try:
                call = parse_line(text)
            except NotAJsonObjectError:
                skipped += bool(text.strip())
                continue
            if call is None or not wanted.selects(call):
                continue
            if condition is not None and not condition.holds(call, text):
                continue
            click.echo(text if output == "json" else _line(call))
            if payloads is not None:
                for line in payloads.of(text):
                    click.echo(styled(line, {"dim": True}))
    except KeyboardInterrupt:
        click.echo(err=True)
    finally:
        if skipped:
            click.echo(f"criproxy: {skipped} lines skipped that are no JSON", err=True)
        if lost:
            click.echo(f"criproxy: {lost} calls missed, as they were not read in time", err=True)
        for note in (condition, payloads):
            if note is not None and (summary := note.summary()):
                click.echo(f"criproxy: {summary}", err=True)


class _Condition:
    """The expression of ``--where``, and the calls for which it could not be evaluated."""

    def __init__(self, source: str, wanted: "CallFilter") -> None:
        """Raises UsageError."""
        from criproxy.timeline.where import Where

        try:
            self._where = Where(source, wanted.methods)
        except ValueError as error:
            raise UsageError(f"--where: {error}") from error
        self.needs_records = self._where.needs_records
        """Whether lines have to be records of the audit log."""
        self._failed = 0
        self._error = ""

    def holds(self, call: "LoggedCall", text: bytes) -> bool:
        """Return whether it holds for a call, of which ``text`` is the line."""
        from criproxy.rules.errors import EvaluationError

        try:
            return self._where.holds(call, text)
        except EvaluationError as error:
            self._failed += 1
            self._error = self._error or printable(error.detail)
            return False

    def summary(self) -> str:
        """Return how many calls it could not be evaluated for, and why; empty if there are none."""
        if not self._failed:
            return ""
        return f"{self._failed} calls left out, as --where could not be evaluated: {self._error}"


def _lines_of(file: Path, from_start: bool) -> Iterator[bytes]:
    """Yield the lines of standard input, or those that are written to a file, without newlines."""
    from criproxy.timeline.follow import FollowedLog
    from criproxy.timeline.reader import STDIN, lines_of_stream

    if file == STDIN:
        yield from (line.text.rstrip(b"\n") for line in lines_of_stream(sys.stdin.buffer))
        return
    log = FollowedLog(file, from_start)
    while True:
        lines = log.read(time.monotonic())
        yield from lines
        if not lines:
            time.sleep(_POLL)


def _line(call: "LoggedCall") -> str:
    from criproxy.timeline.pod_start import format_seconds

    line = _ROW.format(
        datetime.fromtimestamp(call.until, UTC).strftime("%H:%M:%S.%f")[:-3],
        printable(call.method),
        "(running)" if call.running else printable(call.code),
        format_seconds(call.duration),
        printable(call.executable.rpartition("/")[2]) or "-",
        printable(_subject(call)),
    )
    return styled(line.rstrip(), _style(call))


def _subject(call: "LoggedCall") -> str:
    """Return the pod and its container, otherwise their ids, and the image of a call about one."""
    pod = f"{call.namespace}/{call.pod}" if call.pod else call.pod_id[:13]
    parts: Iterable[str] = (pod, call.container or call.container_id[:13])
    subject = "/".join(filter(None, parts))
    if call.image and not call.container:
        subject = f"{subject} {call.image}".strip()
    return subject or "-"


def _style(call: "LoggedCall") -> dict[str, Any]:
    if call.failed:
        return {"fg": "red"}
    if call.running:
        return {"fg": "yellow"}
    return {} if call.method_name.mutating else {"dim": True}
