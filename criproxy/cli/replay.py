"""``criproxy replay``: a cassette as a runtime, or its reads asked of a runtime again."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from criproxy.cli.support.options import output_option
from criproxy.cli.support.signals import until_stopped
from criproxy.errors import UsageError
from criproxy.printable import printable
from criproxy.relay.endpoints import parse_endpoint

if TYPE_CHECKING:
    from criproxy.cassette.call_index import CallIndex

_EPILOG: Final = """\
\b
Examples:
  criproxy replay node7.cassette --as-runtime unix:///tmp/node7.sock
  criproxy replay node7.cassette --as-runtime /tmp/node7.sock --pace 0.1x
  criproxy replay node7.cassette --against unix:///run/containerd/containerd.sock

\b
Exit status: 0 stopped by a signal, or no differences, 1 differences, or a socket cannot be had, 2
wrong options or a file that is no cassette.
"""

_FACTOR: Final = re.compile(r"(\d+(?:\.\d+)?)x")

_SHOWN: Final = 1000
"""Different calls without a recorded answer that are reported."""


def _pace(_: click.Context, parameter: click.Parameter, text: str) -> float:
    """Convert the text of an option to what recorded times are multiplied by."""
    if text in ("recorded", "none"):
        return 1.0 if text == "recorded" else 0.0
    found = _FACTOR.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r}: write recorded, none or 0.5x", param=parameter)
    return float(found[1])


@click.command("replay", epilog=_EPILOG, short_help="Answer from a recording, or compare with it.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--as-runtime",
    metavar="ENDPOINT",
    help="Listen there, and answer as the recorded runtime did.",
)
@click.option(
    "--against",
    metavar="ENDPOINT",
    help="Ask the runtime there what was read in FILE, and show the differences.",
)
@click.option(
    "--pace",
    metavar="P",
    default="recorded",
    show_default=True,
    callback=_pace,
    help="With --as-runtime: how long calls take: 'recorded', 'none', or a factor such as 0.5x.",
)
@output_option("With --against: lines")
def command(
    file: Path, as_runtime: str | None, against: str | None, pace: float, output: str
) -> None:
    """Answer from FILE, a cassette of criproxy record, as the runtime did that was recorded.

    A request is answered by a recorded call of its method with the same values of some fields: the
    same pod, container, image or command, which the reference of cassettes lists. What was never
    recorded ends with FAILED_PRECONDITION, and a line on standard error. Ids are the client's own
    when a pod is created again.
    """
    if (as_runtime is None) == (against is None):
        raise UsageError("give one of --as-runtime and --against")
    if as_runtime is not None:
        _serve(file, as_runtime, pace)


def _serve(file: Path, listen: str, pace: float) -> None:
    import uvloop

    from criproxy.cassette.call_index import CallIndex
    from criproxy.cassette.reader import CassetteReader
    from criproxy.replay.recorded_calls import RecordedCalls
    from criproxy.replay.server import ReplayServer

    endpoint = parse_endpoint(listen)
    reported: set[str] = set()

    def missed(text: str) -> None:
        if text not in reported and len(reported) < _SHOWN:
            reported.add(text)
            click.echo(f"criproxy: {file}: {printable(text)}", err=True)

    with CassetteReader(file) as reader:
        index = CallIndex(reader)
        recorded = RecordedCalls(index)
        _report(file, index, recorded.unusable)
        server = ReplayServer(endpoint, recorded, pace, missed)

        async def main() -> None:
            await server.start()
            try:
                await until_stopped(f"replaying {len(index.calls)} calls of {file} at {endpoint}")
            finally:
                await server.stop()

        uvloop.run(main())


def _report(file: Path, index: "CallIndex", unusable: int) -> None:
    """Say on standard error what of a cassette is missing."""
    for note in index.notes():
        click.echo(f"criproxy: {note}", err=True)
    if unusable:
        click.echo(
            f"criproxy: {file}: {unusable} calls cannot answer: a part of them was not recorded, "
            "or they had not ended",
            err=True,
        )
