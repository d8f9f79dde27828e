"""``criproxy runtime``: runs the embedded CRI runtime."""

from typing import Final

import click

from criproxy.cli.support.serving import serve
from criproxy.errors import UsageError
from criproxy.relay.endpoints import parse_endpoint

_EPILOG: Final = """\
\b
Examples:
  criproxy runtime --listen unix:///tmp/cri.sock
  criproxy runtime --listen /tmp/cri.sock --latency none --pods 1200
  criproxy run --listen /tmp/proxy.sock --runtime-endpoint /tmp/cri.sock

Images of a registry whose name ends in .invalid (nope.invalid/app:1) cannot be pulled, and a
container whose command is below /nonexistent/ cannot be started.

\b
Exit status: 0 stopped by a signal, 1 the socket cannot be had, 2 wrong options.
"""


@click.command("runtime", epilog=_EPILOG, short_help="Run an in-memory CRI runtime.")
@click.option(
    "--listen",
    metavar="E",
    required=True,
    help="The socket to listen on: unix:///path or a bare path. Its directory must exist.",
)
@click.option(
    "--latency",
    metavar="L",
    default="real",
    show_default=True,
    help="How long calls take: 'real' as containerd, 'none', a factor of the real times such "
    "as 0.5x, or a fixed duration such as 5ms.",
)
@click.option(
    "--pods",
    type=click.IntRange(min=0),
    metavar="N",
    default=0,
    show_default=True,
    help="The number of pods at the start, each with a running container. "
    "With 1200, a list of containers has 1 MiB.",
)
def command(listen: str, latency: str, pods: int) -> None:
    """Run an in-memory CRI runtime until SIGINT or SIGTERM, for trying things out.

    It answers every method of CRI v1 and v1alpha2 with consistent state, and with the errors that
    containerd gives. Commands, images and statistics are simulated, and lost when it ends.
    """
    # grpcio is slow to import, and the daemon's process must never load it.
    from criproxy.embedded.latency import parse_latency
    from criproxy.embedded.server import RuntimeServer

    try:
        chosen = parse_latency(latency)
    except ValueError as error:
        raise UsageError(f"--latency: {error}") from None
    endpoint = parse_endpoint(listen)
    server = RuntimeServer(endpoint, latency=chosen, pods=pods)
    serve(server, f"embedded CRI runtime listening on {endpoint}")
