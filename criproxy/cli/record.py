"""``criproxy record``: relays to a runtime, and writes what passes to a cassette."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from criproxy.cli.support.options import call_options, duration_of, size_of
from criproxy.errors import UsageError
from criproxy.relay.endpoints import parse_endpoint

if TYPE_CHECKING:
    from criproxy.timeline.filters import CallFilter

_EPILOG: Final = """\
\b
Examples:
  criproxy record --listen unix:///run/criproxy/record.sock \\
      --runtime-endpoint unix:///run/containerd/containerd.sock --for 10m node7.cassette
  crictl -r unix:///run/criproxy/record.sock pods
  criproxy record --listen /run/criproxy/record.sock --runtime-endpoint /run/crio/crio.sock \\
      --ring 32MiB --slower-than 20s --method RunPodSandbox slow.cassette

\b
Exit status: 0 recorded, 1 a socket cannot be had or the cassette not be written, 2 wrong options.
"""


@click.command("record", epilog=_EPILOG, short_help="Record the calls of clients in a file.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--listen",
    metavar="ENDPOINT",
    required=True,
    help="The socket that clients connect to: unix:///path or a bare path.",
)
@click.option("--runtime-endpoint", metavar="ENDPOINT", required=True, help="The runtime's socket.")
@click.option(
    "--for",
    "seconds",
    metavar="DURATION",
    callback=duration_of,
    help="How long to record, for example 90s or 10m.  [default: until a signal]",
)
@click.option(
    "--max-size",
    metavar="SIZE",
    callback=size_of,
    help="The size of FILE at which the recording ends, for example 64MiB.  [default: no limit]",
)
@click.option(
    "--redact-annotation",
    "annotations",
    metavar="GLOB",
    multiple=True,
    help="Annotations whose values are redacted as well. May be repeated.",
)
@click.option(
    "--redact-value",
    "values",
    metavar="REGEX",
    multiple=True,
    help="Matches that are redacted in any text, as audit.redact.values. May be repeated.",
)
@click.option(
    "--ring",
    metavar="SIZE",
    callback=size_of,
    help="Keep the last of the recording in memory, this much compressed, for example 32MiB. It is "
    "written when a call ends that the options below select, or at the end.",
)
@call_options
@click.option(
    "--after",
    metavar="DURATION",
    callback=duration_of,
    default="10s",
    show_default=True,
    help="How long the recording goes on after such a call.",
)
@click.option("--no-redact", is_flag=True, help="Keep messages as they are, secrets included.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def command(
    file: Path,
    listen: str,
    runtime_endpoint: str,
    seconds: float | None,
    max_size: int | None,
    annotations: tuple[str, ...],
    values: tuple[str, ...],
    ring: int | None,
    wanted: "CallFilter",
    after: float,
    no_redact: bool,
    force: bool,
) -> None:
    """Relay the calls of clients to a runtime, and write every message with its time to FILE.

    FILE is a cassette for criproxy replay and criproxy export. Secrets are redacted as in the audit
    log. The relay never waits for the recording: what comes faster than it can be written is left
    out, counted, and noted in FILE. The recording ends by SIGINT or SIGTERM, after --for, or at
    --max-size; calls in flight then have 10 s to end.

    With --ring, the last minutes are kept in memory. FILE then has what led to a call that meets
    all the conditions that are given, and some time after it; of a call in flight, --slower-than
    is met as soon as it has run for so long. With a --ring and no condition, FILE has the last
    minutes before the end.
    """
    from criproxy.recording.session import RecordOptions, record
    from criproxy.recording.writing import (
        SMALLEST_SIZE,
        RedactOptions,
        RingOptions,
        WriteOptions,
    )
    from criproxy.timeline.filters import CallFilter

    if ring is None and wanted != CallFilter():
        raise UsageError("conditions on calls need --ring: without it, everything is written")
    if ring is not None and max_size is not None and ring > max_size // 2:
        raise UsageError("--ring: is more than half of --max-size, so that not all of it may fit")
    kept = None
    if ring is not None:
        kept = RingOptions(ring, None if wanted == CallFilter() else wanted, after)
    if max_size is not None and max_size < SMALLEST_SIZE:
        raise UsageError("--max-size: is less than 1MiB, which leaves no room for a cassette")
    if no_redact and (annotations or values):
        raise UsageError("--no-redact: leaves nothing for --redact-annotation and --redact-value")
    redact = RedactOptions(not no_redact, annotations, values)
    try:
        redact.redactor()
    except ValueError as error:
        raise UsageError(f"--redact-value: {error}") from error
    options = RecordOptions(
        parse_endpoint(listen),
        parse_endpoint(runtime_endpoint),
        file,
        force,
        seconds,
        WriteOptions(redact, max_size, kept),
    )
    summary = record(
        options,
        lambda: click.echo(f"recording {options.runtime} at {options.listen} in {file}"),
        lambda text: click.echo(f"criproxy: {text}", err=True),
    )
    writing = summary.writing
    click.echo(
        f"{summary.calls} calls with {summary.messages} messages recorded, {writing.size} bytes"
    )
    if summary.reason == "trigger":
        click.echo("a call met the conditions")
    elif kept is not None and kept.wanted is not None:
        click.echo("no call met the conditions; the last of the recording is written")
    if writing.dropped:
        click.echo(f"criproxy: {writing.dropped} records were lost; {file} says where", err=True)
    if summary.cut:
        click.echo(f"criproxy: {summary.cut} calls were in flight, and cut", err=True)
