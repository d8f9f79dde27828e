"""``criproxy run``: runs the daemon."""

from pathlib import Path

import click

from criproxy.cli.support.options import config_option
from criproxy.cli.support.settings import configured
from criproxy.config.schema import DEFAULT_ENDPOINT


@click.command()
@config_option(required=False)
@click.option(
    "--listen",
    metavar="ENDPOINT",
    help=f"The socket that clients connect to.  [default: {DEFAULT_ENDPOINT}]",
)
@click.option(
    "--runtime-endpoint",
    metavar="ENDPOINT",
    help="The runtime's socket.  [default: the first that answers the CRI, of containerd's, "
    "CRI-O's, cri-dockerd's, dockershim's, k3s's, k0s's and MicroK8s's]",
)
@click.option(
    "--image-endpoint",
    metavar="ENDPOINT",
    help="The image service's socket, if another process serves images.  [default: the runtime's]",
)
@click.option(
    "--metrics-address",
    metavar="HOST:PORT",
    help="Where /metrics, /healthz, /readyz, /calls and /rules are served; port 0 selects a "
    "free one.  [default: 127.0.0.1:9440]",
)
@click.option(
    "--log-format",
    type=click.Choice(["json", "console"]),
    help="The format of log lines.  [default: console on a terminal, else json]",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="The lowest level that is written; debug includes calls that only read.  [default: info]",
)
@click.option(
    "--replace",
    is_flag=True,
    help="Take over from a criproxy that listens at the same sockets: it is stopped, without a "
    "failed call, once this one serves.",
)
def command(config: Path | None, replace: bool, **options: str | None) -> None:
    """Run the daemon: relay calls to the container runtime, and report each.

    Options override the file. Endpoints are written unix:///path, unix://path or /path, with at
    most 107 bytes of path. The configuration is loaded again on SIGHUP and when one of its
    files changes.

    \b
    Examples:
      criproxy run
      criproxy run --runtime-endpoint unix:///run/crio/crio.sock --log-level debug
      criproxy run -c /etc/criproxy/config.yaml

    \b
    Signals:
      SIGINT, SIGTERM                   stop: let calls in flight end within limits.drain_timeout;
                                        a second one cuts them
      SIGHUP                            load the configuration again, and reopen the log file
      SIGUSR1                           reopen the log file
      SIGUSR2                           upgrade: start the installed version and hand over to it

    \b
    Exit status: 0 stopped by a signal, 1 something needed is unavailable, 2 wrong options or a
    wrong file.
    """
    from criproxy.daemon.supervisor.supervisor import serve

    serve(configured(config, options), replace)
