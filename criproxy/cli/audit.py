"""``criproxy audit``: verifies the hash chain of audit logs and queries their records."""

import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from criproxy.audit.files.query import COLUMNS
from criproxy.cli.support.log_input import bytes_reporter, moment, percentage_reporter
from criproxy.cli.support.options import table_option, time_options, wide_option
from criproxy.cli.support.tables import print_table, without_alike
from criproxy.common.printable import printable
from criproxy.errors import UsageError

if TYPE_CHECKING:
    from criproxy.audit.files.hash_chain import ChainReport
    from criproxy.audit.files.reader import LogLine

_TABLE_COLUMNS: Final = {
    "time": "strftime(time, '%Y-%m-%d %H:%M:%S.%g')",
    "executable": "regexp_extract(executable, '[^/]*$')",
    "method": "coalesce(method, kind)",
    "namespace": "namespace",
    "pod": "pod",
    "container": "container",
    "code": "code",
    "duration": "CASE WHEN duration IS NULL THEN NULL ELSE printf('%.3f s', duration) END",
}
"""SQL expression of each column of the table output."""

_DEFAULT_ROWS: Final = 200
"""Default limit of rows in the table output."""

_EPILOG: Final = """\
\b
Examples:
  criproxy audit verify /var/log/criproxy/audit.jsonl
  criproxy audit query /var/log/criproxy/audit.jsonl --since 1h
"""

_VERIFY_EPILOG: Final = """\
\b
Examples:
  criproxy audit verify /var/log/criproxy/audit.jsonl     with its rotated files
  criproxy audit verify --contains HASH /var/log/criproxy/
  ssh node cat /var/log/criproxy/audit.jsonl | criproxy audit verify -

\b
Exit status: 0 the chain holds, 1 it does not, 2 an option or a file is wrong.
"""

_QUERY_EPILOG: Final = """\
\b
Examples:
  criproxy audit query /var/log/criproxy/audit.jsonl --since 1h
  criproxy audit query FILES --where "method = 'ExecSync' and not kubelet"
  criproxy audit query FILES --where "namespace = 'prod' and code <> 'OK'" -o json | jq .
  criproxy audit query FILES --where "request->>'$.cmd[0]' = 'sh'"
  criproxy audit query FILES --sql "select executable, method, count(*) as calls,
      max(duration) as longest from audit group by all order by calls desc"

Columns:"""


@click.group("audit", epilog=_EPILOG, short_help="Verify and query audit logs.")
def command() -> None:
    """Verify audit logs, and query their records.

    FILES are audit logs (each together with its rotated files, compressed or not), rotated files,
    or directories.
    """


@command.command("verify", epilog=_VERIFY_EPILOG, short_help="Verify that the chain holds.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--from", "first", metavar="HASH", help="The hash of the record before the first one."
)
@click.option(
    "--contains",
    metavar="HASH",
    multiple=True,
    help="The hash of a record that has to be there. May be repeated.",
)
def verify(files: tuple[Path, ...], first: str | None, contains: tuple[str, ...]) -> None:
    """Verify that the chain of FILES holds: that each record contains the hash of the one before.

    It names the first record that was changed, removed, reordered or inserted. A line that a crash
    has torn is none of these. It prints the last record's hash: kept elsewhere, that shows later
    whether the end was cut off or everything was written again. The file - is standard input.
    """
    from criproxy.audit.files.hash_chain import check, digest
    from criproxy.audit.files.reader import files_of

    paths = None if files == (Path("-"),) else files_of(files)
    wanted = set(contains)
    index = _LineIndex()

    def lines() -> Iterator[bytes]:
        for line in index.watch(_read(paths)):
            if wanted:
                wanted.discard(digest(line.text.rstrip(b"\r\n")))
            yield line.text

    report = check(lines())
    if report.last is None:
        remedy = "write it with chain: true in the sink's file"
        raise UsageError(f"{_names(files)}: {report.records} records, and no chain; {remedy}")
    for number in report.torn:
        if report.broken is not None and report.broken.line == number:
            continue  # it is changed rather than torn
        click.echo(f"{index.location(number)}: torn by a crash, which is no tampering", err=True)
    if report.unchained:
        click.echo(f"{report.unchained} records before the chain begins: nothing holds them")
    failed = _report_break(report, index, paths)
    if first is not None and report.first != first:
        click.echo(f"FAILED: the chain begins behind {report.first}, not behind {first}")
        failed = True
    for each in sorted(wanted):
        click.echo(f"FAILED: no record has the hash {each}")
        failed = True
    if failed:
        sys.exit(1)
    _print_summary(report, index)


@command.command(
    "query",
    epilog=f"{_QUERY_EPILOG} {', '.join(COLUMNS)}.",
    short_help="Query records in SQL.",
)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--where", metavar="SQL", help="A condition on the columns below.")
@time_options(
    "The oldest records: 90s or 1h ago, or a time such as 2026-11-23T10:00:00Z.",
    "The newest records",
)
@click.option(
    "--sql",
    help="A whole query on the view audit, instead of the options above; its column record is "
    "the whole record.",
)
@table_option("a record")
@click.option(
    "--limit",
    type=click.IntRange(0),
    help="The maximum number of records; 0: all.  "
    f"[default: {_DEFAULT_ROWS} for a table, else all]",
)
@wide_option
def query(
    files: tuple[Path, ...],
    where: str | None,
    since: str | None,
    until: str | None,
    sql: str | None,
    output: str,
    limit: int | None,
    wide: bool,
) -> None:
    """Query the records of FILES in SQL.

    The answer is a table that fits the terminal, or with -o json the records themselves. To fit,
    columns that are empty or alike are left out, and long cells shortened. This needs
    DuckDB: pip install 'criproxy[query]'. Nothing is written, and no other file is read. Lines
    that are no records are skipped and counted.
    """
    from criproxy.audit.files.query import AuditLog, build_query, run_with_progress
    from criproxy.audit.files.reader import files_of

    if sql is not None and (where or since or until):
        raise UsageError("--sql is a whole question; put --where, --since and --until into it")
    if limit is None and output == "table" and sql is None:
        limit = _DEFAULT_ROWS
    limit = limit or None
    if sql is None:
        shown = [f'{what} AS "{name}"' for name, what in _TABLE_COLUMNS.items()]
        columns = shown if output == "table" else ["record"]
        more = None if limit is None else limit + 1
        sql = build_query(columns, where, moment("--since", since), moment("--until", until), more)
    paths = files_of(files)
    log = AuditLog(paths)
    answer = run_with_progress(
        log, sql, percentage_reporter(sum(path.stat().st_size for path in paths))
    )
    if output == "json":
        _print_json(answer.columns, answer.rows, limit)
    else:
        _print_rows(answer.columns, answer.rows, limit, wide)
    skipped = log.skipped()
    if skipped:
        click.echo(f"criproxy: {skipped} lines skipped that are no records", err=True)


class _LineIndex:
    """Index of the lines read: their files and line numbers, and the first and last line."""

    def __init__(self) -> None:
        self.files: list[tuple[int, Path]] = []  # number of the line before a file's first
        self.count = 0
        self.first = self.last = b""

    def watch(self, lines: "Iterable[LogLine]") -> "Iterator[LogLine]":
        for line in lines:
            if line.number == 1:
                self.files.append((self.count, line.path))
            self.count += 1
            self.first = self.first or line.text
            self.last = line.text
            yield line

    def location(self, number: int) -> str:
        before, path = next(each for each in reversed(self.files) if each[0] < number)
        return f"{path}:{number - before}"


def _read(paths: list[Path] | None) -> "Iterator[LogLine]":
    from criproxy.audit.files.reader import LogLine, lines_of

    if paths is None:
        for number, text in enumerate(sys.stdin.buffer, 1):
            yield LogLine(Path("-"), number, text)
        return
    progress = bytes_reporter(sum(path.stat().st_size for path in paths))
    yield from lines_of(paths, progress)


def _report_break(report: "ChainReport", index: _LineIndex, paths: list[Path] | None) -> bool:
    broken = report.broken
    if broken is None:
        return False
    click.echo(f"FAILED: {index.location(broken.line)}: {broken.kind}: {broken.message}")
    if paths is not None:
        record = next(
            (line.text for at, line in enumerate(_read(paths), 1) if at == broken.line), b""
        )
        members = _members(record)
        if "auditID" in members:
            what = f"auditID {members['auditID']}, at {members.get('stageTimestamp')}"
            click.echo(f"        it says {what}; trust nothing from there on")
    return True


def _print_summary(report: "ChainReport", index: _LineIndex) -> None:
    assert report.last is not None
    first, last = (_members(line).get("stageTimestamp") for line in (index.first, index.last))
    files = len(index.files)
    click.echo(
        f"OK: {report.records} records in {files} file{'s' if files != 1 else ''}, "
        f"from {first} to {last}"
    )
    if report.first is not None and report.first.strip("0"):
        click.echo(f"The chain begins behind {report.first}: what was before is not here.")
    click.echo(f"The last is record {report.last.sequence}. Keep its hash elsewhere:")
    click.echo(report.last.digest)


def _members(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _names(files: tuple[Path, ...]) -> str:
    return ", ".join(map(str, files))


def _print_json(columns: list[str], rows: Iterable[tuple[Any, ...]], limit: int | None) -> None:
    for number, row in enumerate(rows):
        if limit is not None and number >= limit:
            return
        if columns == ["record"]:
            click.echo(row[0])
        else:
            click.echo(json.dumps(dict(zip(columns, row, strict=True)), default=str))


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _print_rows(
    columns: list[str], rows: Iterable[tuple[Any, ...]], limit: int | None, wide: bool
) -> None:
    shown: list[tuple[str, ...]] = [tuple(column.upper() for column in columns)]
    more = False
    for row in rows:
        if limit is not None and len(shown) > limit:
            more = True
            break
        shown.append(tuple("-" if cell is None else printable(str(cell)) for cell in row))
    width, left_out = None, dict[str, str]()
    if _is_terminal() and not wide:
        width = shutil.get_terminal_size().columns
        shown, left_out = without_alike(shown, width)
    print_table(shown, width)
    if left_out:
        values = ", ".join(f"{name} {value}" for name, value in left_out.items())
        click.echo(f"criproxy: the same in all: {values}; --wide shows all", err=True)
    if more:
        click.echo(f"criproxy: the first {limit} of more; --limit 0 shows all", err=True)
