"""``criproxy export``: a cassette for Wireshark or Perfetto."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from criproxy.common.output_file import create
from criproxy.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from criproxy.cassette.packet_export import PacketExport
    from criproxy.cassette.reader import CassetteReader
    from criproxy.cassette.records import AnyRecord
    from criproxy.cassette.trace_export import TraceExport

_EPILOG: Final = """\
\b
Examples:
  criproxy export node7.cassette -o node7.pcapng
  criproxy export node7.cassette -o node7.json

\b
Exit status: 0 exported, also what is left of a damaged cassette, 1 a file cannot be read or
written, 2 wrong options or a file that is no cassette.
"""

_EXISTS: Final = "exists; choose another, or overwrite it with --force"


@click.command(
    "export", epilog=_EPILOG, short_help="Convert a recording for Wireshark or Perfetto."
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    required=True,
    help="What to write: *.pcapng for Wireshark, *.json for Perfetto.",
)
@click.option("--force", is_flag=True, help="Overwrite a file.")
def command(file: Path, output: Path, force: bool) -> None:
    """Convert FILE, a cassette of criproxy record, to a format that other programs read.

    A packet capture has a TCP connection for each client, in which HTTP/2 frames are made again
    from the recorded messages. A trace has an event for each call, with its pod and its result.
    """
    from criproxy.cassette.packet_export import PacketExport
    from criproxy.cassette.reader import CassetteReader
    from criproxy.cassette.trace_export import TraceExport

    if output.suffix not in (".pcapng", ".json"):
        raise UsageError(f"--output: {output} has no known suffix; write *.pcapng or *.json")
    with CassetteReader(file) as reader:
        kind = PacketExport if output.suffix == ".pcapng" else TraceExport
        try:
            with open(create(output, _EXISTS, replace=force), "wb") as written:
                for data in _converted(reader, kind(reader.began)):
                    written.write(data)
        except OSError as error:
            raise UnavailableError(f"{output}: cannot be written: {error.strerror}") from error
        for note in reader.damage.describe(file):
            click.echo(f"criproxy: {note}", err=True)


def _converted(reader: "CassetteReader", export: "PacketExport | TraceExport") -> Iterator[bytes]:
    yield export.header()
    for record in _with_progress(reader):
        yield from export.convert(record)
    yield export.footer()


def _with_progress(reader: "CassetteReader") -> "Iterator[AnyRecord]":
    from criproxy.cli.support.log_input import percentage_reporter

    size = reader.size
    show = percentage_reporter(size)
    for place, record in reader.placed():
        show(100 * place.position / size)
        yield record
    show(100)
