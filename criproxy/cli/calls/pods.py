"""``criproxy pods``: how long pods took to start, and which call was the cause."""

import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from criproxy.cli.support.admin_client import AdminClient, admin_endpoint, admin_options
from criproxy.cli.support.log_input import bytes_reporter, lines_of_files, moment
from criproxy.cli.support.options import selection_options, table_option, time_options, wide_option
from criproxy.cli.support.tables import print_table, without_columns
from criproxy.common.printable import printable
from criproxy.errors import UsageError

if TYPE_CHECKING:
    from criproxy.timeline.pod_starts import PodStarts
    from criproxy.timeline.reader import CallReader

_EPILOG: Final = """\
\b
Examples:
  criproxy pods --slower-than 5s
  criproxy pods /var/log/criproxy/audit.jsonl --since 1h
  criproxy pods /var/log/criproxy/criproxy.log -n shop --slower-than 10s
  criproxy pods slow.cassette
  journalctl -u criproxy -o cat | criproxy pods - -o json | jq .cause.text

\b
Exit status: 0 success, 1 a file cannot be read or the daemon does not answer, 2 an option
or a file is wrong.
"""

_STYLES: Final = {"failing": {"fg": "red"}, "running": {"fg": "yellow"}}
"""Styles of rows by the state of the start."""

_HEADER: Final = (
    *("BEGAN", "NODE", "NAMESPACE", "POD", "STATE", "TOTAL"),
    *("SANDBOX", "PULL", "CREATE", "START", "WAITS", "CAUSE"),
)

_TIMES: Final = ("sandbox", "pull", "create", "start", "waits")
"""What the columns from SANDBOX to WAITS are the times of."""

_Fields = Mapping[str, Any]
"""The JSON form of a start."""

_DISPENSABLE: Final = ("CREATE", "START", "WAITS", "SANDBOX", "PULL", "BEGAN", "STATE")
"""Columns that are left out of a narrow terminal, in that order."""


@click.command("pods", epilog=_EPILOG, short_help="Show why pods were slow to start.")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, allow_dash=True))
@admin_options
@selection_options
@time_options(
    "The first starts: begun 90s or 1h ago, or at a time such as 2026-11-23T10:00:00Z.",
    "The last starts",
)
@table_option("a start, with every call and wait")
@wide_option
def command(
    files: tuple[Path, ...],
    admin: str | None,
    config: Path | None,
    namespaces: tuple[str, ...],
    pods: tuple[str, ...],
    slower_than: float,
    since: str | None,
    until: str | None,
    output: str,
    wide: bool,
) -> None:
    """Show how long pods took to start, where the time went, and the cause in words.

    Without FILES, a running daemon is asked at its admin socket for the last starts, those that go
    on included. FILES are call logs in JSON that name pods (log.pods), or audit logs, each together
    with its rotated files, compressed or not; - is standard input. A start begins with
    RunPodSandbox, which includes the network's setup, and ends when all containers have started for
    the first time. WAITS are the times between calls: the kubelet's own, its back-off, and what
    init containers run. A start that has not ended is failing (its last call has failed), running
    (a call is in flight) or unfinished. A narrow terminal shows fewer columns. Lines that are no
    JSON are skipped and counted.
    """
    first, last = moment("--since", since), moment("--until", until)

    def selected(start: _Fields) -> bool:
        began = datetime.fromisoformat(start["began"])
        return (
            start["seconds"] >= slower_than
            and (
                not namespaces or any(fnmatchcase(start["namespace"], each) for each in namespaces)
            )
            and (not pods or any(fnmatchcase(start["pod"], each) for each in pods))
            and (first is None or began >= first)
            and (last is None or began < last)
        )

    if not files:
        starts = AdminClient(admin_endpoint(admin, config)).get("pods")["pods"]
        _show(filter(selected, starts), output, wide)
        return
    if admin is not None or config is not None:
        raise UsageError("name either FILES, or the daemon with --admin or -c")
    from criproxy.timeline.pod_starts import PodStarts

    reader, found = _reader_of(files), PodStarts()
    _show(filter(selected, _starts_in(reader, found)), output, wide)
    _report(files, reader, found)


def _show(starts: Iterable[_Fields], output: str, wide: bool) -> None:
    if output == "json":
        for start in starts:
            click.echo(json.dumps(start))
    else:
        _print(sorted(starts, key=lambda start: str(start["began"])), wide)


def _reader_of(files: tuple[Path, ...]) -> "CallReader":
    from criproxy.audit.files.reader import files_of
    from criproxy.timeline.reader import STDIN, CallReader, lines_of_stream

    if files == (STDIN,):
        return CallReader(lines_of_stream(sys.stdin.buffer))
    if STDIN in files:
        raise UsageError("- is standard input, and stands alone; name it or files")
    paths = files_of(files)
    progress = bytes_reporter(sum(path.stat().st_size for path in paths))
    return CallReader(lines_of_files(paths, progress))


def _starts_in(reader: "CallReader", found: "PodStarts") -> Iterator[_Fields]:
    from criproxy.timeline.json_form import json_of
    from criproxy.timeline.pod_starts import starts_in

    yield from map(json_of, starts_in(reader, found))


def _print(starts: Iterable[_Fields], wide: bool) -> None:
    rows: list[tuple[str, ...]] = [_HEADER]
    styles: list[dict[str, Any]] = [{"bold": True}]
    for start in starts:
        rows.append(_row(start))
        styles.append(_STYLES.get(start["state"], {}))
    if len(rows) == 1:
        return
    width = None
    if _is_terminal() and not wide:
        width = shutil.get_terminal_size().columns
        rows = without_columns(rows, width, _DISPENSABLE)
    print_table(rows, width, styles)


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _row(start: _Fields) -> tuple[str, ...]:
    from criproxy.timeline.pod_start import WAITS, format_seconds

    began = datetime.fromisoformat(start["began"]).strftime("%Y-%m-%d %H:%M:%S")
    kinds = {"waits" if phase["kind"] in WAITS else phase["kind"] for phase in start["phases"]}
    return (
        began,
        printable(start.get("node", "")) or "-",
        printable(start["namespace"]) or "-",
        printable(start["pod"]),
        start["state"],
        format_seconds(start["seconds"]),
        *(format_seconds(start[f"{each}_s"]) if each in kinds else "-" for each in _TIMES),
        printable(start["cause"]["text"]),
    )


def _report(files: tuple[Path, ...], reader: "CallReader", found: "PodStarts") -> None:
    """Say on standard error what was left out, and why nothing was found."""
    names = ", ".join(map(str, files))
    if reader.skipped:
        first = reader.first_skipped
        assert first is not None
        if not reader.calls:
            raise UsageError(
                f"{first.path}:{first.number}: is no JSON, and no line is a call; name an audit "
                "log, a call log that is written with log.format: json, or a cassette"
            )
        lines = f"{reader.skipped} line{'s' if reader.skipped > 1 else ''} skipped"
        click.echo(
            f"criproxy: {lines}: no JSON; the first is {first.path}:{first.number}", err=True
        )
    elif not reader.calls:
        click.echo(f"criproxy: {names}: no line is about a call", err=True)
    if found.unnamed:
        click.echo(
            f"criproxy: {found.unnamed} calls do not name their pod; write the call log with "
            "log.pods: true, or use an audit log; of a recording, one that has the pods' beginning",
            err=True,
        )
    if found.dropped:
        click.echo(f"criproxy: {found.dropped} calls of pods with too many are left out", err=True)
