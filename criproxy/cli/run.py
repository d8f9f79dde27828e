"""``criproxy run``: the daemon."""

from pathlib import Path

import click

from criproxy.cli.settings import config_option, configured
from criproxy.config.schema import DEFAULT_ENDPOINT


@click.command()
@config_option(required=False)
@click.option(
    "--listen",
    metavar="ENDPOINT",
    help=f"Where clients connect.  [default: {DEFAULT_ENDPOINT}]",
)
@click.option(
    "--runtime-endpoint",
    metavar="ENDPOINT",
    help="The runtime's socket.  [default: the first of containerd's, CRI-O's, cri-dockerd's and "
    "dockershim's that is there]",
)
@click.option(
    "--image-endpoint",
    metavar="ENDPOINT",
    help="The image service's socket, where it is another.  [default: the runtime's]",
)
@click.option(
    "--metrics-address",
    metavar="HOST:PORT",
    help="Where /metrics, /healthz, /readyz, /calls and /rules are served; port 0 takes a free "
    "one.  [default: 127.0.0.1:9440]",
)
@click.option(
    "--log-format",
    type=click.Choice(["json", "console"]),
    help="[default: console on a terminal, else json]",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="debug also shows the calls that only read.  [default: info]",
)
def command(config: Path | None, **options: str | None) -> None:
    """Relay calls to the container runtime, and tell of each.

    Runs until SIGINT or SIGTERM. Options have the last word over the file. Endpoints are written
    unix:///path, unix://path or /path. SIGHUP loads the rules anew and opens the log file anew,
    SIGUSR1 only opens the log file anew. The rules are loaded anew too when their file changes.

    \b
    Examples:
      criproxy run
      criproxy run --runtime-endpoint unix:///run/crio/crio.sock --log-level debug
      criproxy run -c /etc/criproxy/config.yaml
    \b
    Exit status: 0 told to stop, 1 something needed is not to be had, 2 wrong options or file.
    """
    from criproxy.daemon.server import serve

    serve(configured(config, options))
