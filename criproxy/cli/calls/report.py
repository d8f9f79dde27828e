"""``criproxy report``: a page about the calls of a log, or about compatibility."""

import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from criproxy.cli.support.log_input import bytes_reporter, lines_of_cassette, percentage_reporter
from criproxy.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from criproxy.report.computing.call_table import CallTable
    from criproxy.report.figures import Compatibility, Report

HTML, MARKDOWN, JSON = FORMATS = ("html", "md", "json")

_SUFFIXES: Final = {
    ".html": HTML,
    ".htm": HTML,
    ".md": MARKDOWN,
    ".markdown": MARKDOWN,
    ".json": JSON,
}

_STDIN: Final = Path("-")

_EPILOG: Final = """\
\b
Examples:
  criproxy report /var/log/criproxy/criproxy.log -o report.html
  criproxy report after.jsonl --against before.jsonl -o report.html
  criproxy report node7.cassette -o report.html
  criproxy report --compat /var/log/criproxy/audit.jsonl
  criproxy report audit.jsonl -o json | jq '.comparison.changes[]'

\b
Exit status: 0 success, 1 a file cannot be read or a library is missing, 2 an option or a file is
wrong.
"""


class Output(NamedTuple):
    """Where a report is written and in which form; ``path`` is None for standard output."""

    path: Path | None
    form: str


@click.command("report", epilog=_EPILOG, short_help="Report on the calls of a log.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    default=MARKDOWN,
    show_default=True,
    help="The file to write, or html, md or json for standard output. A file's extension (.html, "
    ".md, .json) is its form.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="The form of the file, if its extension does not say it.",
)
@click.option(
    "--against",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path),
    help="An earlier log to compare with: which methods became slower or faster. May be repeated.",
)
@click.option(
    "--compat",
    is_flag=True,
    help="Report on compatibility instead: methods that are not implemented, versions of the API, "
    "streams that are given up, deprecated fields, message sizes.",
)
def command(
    files: tuple[Path, ...],
    output: str,
    form: str | None,
    against: tuple[Path, ...],
    compat: bool,
) -> None:
    """Report on the calls of a log: where the time went, on one page that needs no network.

    FILES are call logs in JSON, or audit logs, each together with its rotated files, compressed or
    not, or cassettes of criproxy record; - is standard input. The page has the latency of each
    method over time, pod starts, the slowest calls, errors, calls in flight, polling, callers, and
    message sizes. With --against it says which methods became slower or faster, with confidence
    intervals.

    This needs DuckDB, and for HTML vl-convert-python: pip install 'criproxy[report]'. Logs of any
    size take about a gigabyte of memory at most; the database stands in TMPDIR meanwhile. Lines
    that are no JSON are skipped and counted.
    """
    to = output_of(output, form)
    if compat and against:
        raise UsageError("--compat compares nothing; leave --against out")
    if to.form == HTML:
        from criproxy.report.forms.html_form import require_charts

        require_charts()
    _write(to, _text_of(_report(files, against, compat, to), to.form))


def output_of(output: str, form: str | None) -> Output:
    """Return where a report is written. Raises UsageError if its form is not known."""
    if output in FORMATS:
        if form not in (None, output):
            raise UsageError(f"-o {output} is a form for standard output; leave --format out")
        if output == HTML and _is_terminal():
            raise UsageError("-o html would fill the terminal; name a file: -o report.html")
        return Output(None, output)
    path = Path(output)
    found = form or _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise UsageError(
            f"-o {output}: the form is not known; end it in .html, .md or .json, or use --format"
        )
    if not path.parent.is_dir():
        raise UsageError(f"-o {output}: there is no directory {path.parent}")
    if path.is_dir():
        raise UsageError(f"-o {output}: is a directory; name a file in it")
    return Output(path, found)


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _report(
    files: tuple[Path, ...], against: tuple[Path, ...], compat: bool, to: Output
) -> "Report | Compatibility":
    from criproxy.report.computing.comparison import compare
    from criproxy.report.computing.compatibility import compatibility_of
    from criproxy.report.computing.measure import report_of

    with ExitStack() as stack:
        table = _loaded(stack, files, to)
        if compat:
            return compatibility_of(table, files)
        if not against:
            return report_of(table, files)
        return report_of(table, files, compare(_loaded(stack, against, to), against, table))


def _loaded(stack: ExitStack, given: tuple[Path, ...], to: Output) -> "CallTable":
    from criproxy.audit.files.reader import files_of
    from criproxy.report.computing.call_table import CallTable, spooled

    directory = Path(
        stack.enter_context(
            tempfile.TemporaryDirectory(prefix="criproxy-report-", ignore_cleanup_errors=True)
        )
    )
    table = stack.enter_context(closing(CallTable(directory)))
    if given == (_STDIN,):
        files = [spooled(sys.stdin.buffer, directory)]
    elif _STDIN in given:
        raise UsageError("- is standard input, and stands alone; name it or files")
    else:
        files = files_of(given)
    if to.path is not None and to.path.exists():
        for file in files:
            if to.path.samefile(file):
                raise UsageError(f"-o {to.path}: is one of the logs; name another file")
    logs = _logs_of(files, directory)
    table.is_recording = logs != files
    table.load(logs, percentage_reporter(sum(file.stat().st_size for file in logs)))
    _tell_skipped(table, given)
    return table


def _logs_of(files: Sequence[Path], directory: Path) -> list[Path]:
    """Return the files, or where they are cassettes, logs of the same calls in a directory.

    Raises UsageError if they are of both kinds.
    """
    from criproxy.cassette.reader import is_cassette

    cassettes = [file for file in files if is_cassette(file)]
    if not cassettes:
        return list(files)
    if len(cassettes) < len(files):
        other = next(file for file in files if file not in cassettes)
        raise UsageError(
            f"{cassettes[0]} is a cassette, and {other} a log, which may have the same calls; name "
            "files of one kind"
        )
    progress = bytes_reporter(sum(file.stat().st_size for file in files))
    logs = []
    for number, cassette in enumerate(cassettes):
        log = directory / f"{number}.jsonl"
        try:
            with log.open("wb") as file:
                file.writelines(each.text + b"\n" for each in lines_of_cassette(cassette, progress))
        except OSError as error:
            raise UnavailableError(
                f"{directory}: {error.strerror}; set TMPDIR to another disk"
            ) from error
        logs.append(log)
    return logs


def _tell_skipped(table: "CallTable", given: Sequence[Path]) -> None:
    """Say on standard error which lines were skipped. Raises UsageError if there is no call."""
    if table.skipped.file is None:
        return
    from criproxy.report.computing.skipped_lines import first_skipped

    number = first_skipped(table.skipped.file)
    name = _STDIN if tuple(given) == (_STDIN,) else table.skipped.file
    first = str(name) if number is None else f"{name}:{number}"
    if table.row("SELECT count(*) FROM calls") == (0,):
        raise UsageError(
            f"{first}: is no JSON, and no line is a call; name an audit log, a call log that is "
            "written with log.format: json, or a cassette"
        )
    lines = f"{table.skipped.lines} line{'s' if table.skipped.lines > 1 else ''} skipped"
    click.echo(f"criproxy: {lines}: no JSON; the first is {first}", err=True)


def _text_of(report: "Report | Compatibility", form: str) -> str:
    if form == JSON:
        import msgspec

        return msgspec.json.format(msgspec.json.encode(report)).decode() + "\n"
    if form == MARKDOWN:
        from criproxy.report.forms.markdown_form import markdown_of

        return markdown_of(report)
    from criproxy.report.forms.html_form import html_of

    return html_of(report)


def _write(to: Output, text: str) -> None:
    if to.path is None:
        click.echo(text, nl=False)
        return
    whole = to.path.with_name(f"{to.path.name}.{os.getpid()}.tmp")
    try:
        whole.write_text(text, encoding="utf-8")
        whole.replace(to.path)
    except OSError as error:
        whole.unlink(missing_ok=True)
        raise UsageError(f"-o {to.path}: cannot be written: {error.strerror}") from error
