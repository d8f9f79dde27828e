"""``criproxy replay``: a cassette as a runtime, or its reads asked of a runtime again."""

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from criproxy.cli.support.options import output_option
from criproxy.cli.support.serving import serve
from criproxy.cli.support.tables import print_table
from criproxy.common.printable import printable
from criproxy.errors import UsageError
from criproxy.relay.endpoints import parse_endpoint

if TYPE_CHECKING:
    from criproxy.cassette.call_index import CallIndex
    from criproxy.replay.comparison import Comparison

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

_HEADER: Final = ("METHOD", "RECORDED P50", "P95", "NOW P50", "P95", "FACTOR")

_QUANTILES: Final = {"p50": 0.5, "p95": 0.95}

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
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    metavar="N",
    default=5,
    show_default=True,
    help="With --against: how often each request is asked.",
)
@click.option(
    "--max-slowdown",
    type=click.FloatRange(min=0, min_open=True),
    metavar="FACTOR",
    help="With --against: a method whose median takes longer by this factor is a difference.",
)
@output_option("With --against: lines")
def command(
    file: Path,
    as_runtime: str | None,
    against: str | None,
    pace: float,
    repeat: int,
    max_slowdown: float | None,
    output: str,
) -> None:
    """Answer from FILE, a cassette of criproxy record, as the runtime did that was recorded.

    A request is answered by a recorded call of its method with the same values of some fields: the
    same pod, container, image or command, which the reference of cassettes lists. What was never
    recorded ends with FAILED_PRECONDITION, and a line on standard error. Ids are the client's own
    when a pod is created again.

    With --against, a runtime is asked the requests of FILE that only read, and nothing else.
    Differences in its answers are shown, and how long calls took then and take now.
    """
    if (as_runtime is None) == (against is None):
        raise UsageError("give one of --as-runtime and --against")
    if as_runtime is not None:
        _serve(file, as_runtime, pace)
    if against is not None and _differs(file, against, repeat, max_slowdown, output):
        sys.exit(1)


def _serve(file: Path, listen: str, pace: float) -> None:
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
        serve(server, f"replaying {len(index.calls)} calls of {file} at {endpoint}")


def _differs(
    file: Path, against: str, repeat: int, max_slowdown: float | None, output: str
) -> bool:
    """Ask a runtime, print what is different, and return whether anything is."""
    from criproxy.cassette.call_index import CallIndex
    from criproxy.cassette.reader import CassetteReader
    from criproxy.cli.support.log_input import percentage_reporter
    from criproxy.client.failures import check_socket
    from criproxy.replay.comparison import compare
    from criproxy.replay.recorded_calls import RecordedCalls

    endpoint = parse_endpoint(against)
    with CassetteReader(file) as reader:
        check_socket(endpoint)
        index = CallIndex(reader)
        recorded = RecordedCalls(index)
        _report(file, index, recorded.unusable)
        progress = percentage_reporter(reader.size)
        found = compare(recorded, endpoint, repeat, reader.began.redacted, progress)
    if not found.requests:
        raise UsageError(f"{file}: has no answered call that only reads; nothing can be compared")
    slower = [
        each.method
        for each in found.latencies
        if max_slowdown is not None and each.factor > max_slowdown
    ]
    if output == "json":
        click.echo(json.dumps(_json(found, slower)))
    else:
        _print(found, slower)
    return bool(found.differences or slower)


def _json(found: "Comparison", slower: list[str]) -> dict[str, Any]:
    from criproxy.replay.comparison import quantile

    return {
        "requests": found.requests,
        "requestsLeftOut": found.left_out,
        "differences": [dataclasses.asdict(each) for each in found.differences],
        "latencies": [
            {
                "method": each.method,
                "recorded": {"calls": len(each.recorded)}
                | {name: quantile(each.recorded, at) for name, at in _QUANTILES.items()},
                "now": {"calls": len(each.now)}
                | {name: quantile(each.now, at) for name, at in _QUANTILES.items()},
                "factor": each.factor,
                "slower": each.method in slower,
            }
            for each in found.latencies
        ],
    }


def _print(found: "Comparison", slower: list[str]) -> None:
    from criproxy.replay.comparison import quantile

    rows: list[tuple[str, ...]] = [_HEADER]
    for each in found.latencies:
        times = (quantile(values, at) for values in (each.recorded, each.now) for at in (0.5, 0.95))
        more = " slower" if each.method in slower else ""
        shown = (f"{1e3 * seconds:.2f} ms" for seconds in times)
        rows.append((each.method, *shown, f"{each.factor:.2f}{more}"))
    print_table(rows)
    for one in found.differences:
        about = f" {printable(one.request)}" if one.request else ""
        click.echo(f"\n{one.method}{about}")
        if one.recorded != one.now:
            click.echo(f"  {printable(one.recorded)} -> {printable(one.now)}")
        for change in one.changes:
            click.echo(f"  {printable(change)}")
    count = len(found.differences)
    summary = f"{found.requests} requests asked, {count or 'none'} answered differently"
    if found.left_out:
        summary += f"; {found.left_out} further requests were not asked"
    click.echo(f"\n{summary}")


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
