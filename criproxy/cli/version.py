"""``criproxy version``: calls Version on an endpoint."""

import json
import stat
from pathlib import Path
from typing import Final

import click

from criproxy.cli.support.options import duration, output_option
from criproxy.config.schema import DEFAULT_ENDPOINT
from criproxy.relay.endpoints import Endpoint, find_runtime, parse_endpoint

_EPILOG: Final = """\
\b
Examples:
  criproxy version
  criproxy version --runtime-endpoint unix:///run/containerd/containerd.sock
  criproxy version --timeout 500ms -o json

\b
Exit status: 0 the endpoint answers, 1 it does not, 2 an option is wrong.
"""


@click.command("version", epilog=_EPILOG, short_help="Ask an endpoint for its Version.")
@click.option(
    "--runtime-endpoint",
    metavar="E",
    help="The socket to ask: unix:///path or a bare path. Without it criproxy's own socket "
    f"({DEFAULT_ENDPOINT.path}) if it exists, else the first runtime found where crictl "
    "looks.",
)
@click.option(
    "--api-version",
    type=click.Choice(["v1", "v1alpha2"]),
    default="v1",
    show_default=True,
    help="The version of the CRI to ask in.",
)
@click.option(
    "--timeout",
    metavar="DURATION",
    default="10s",
    show_default=True,
    help="How long to wait for the answer, for example 500ms or 1m30s.",
)
@output_option("Four lines")
def command(runtime_endpoint: str | None, api_version: str, timeout: str, output: str) -> None:
    """Ask a CRI endpoint, the proxy or a runtime, for its Version.

    It makes a gRPC call, so it also shows whether the endpoint answers, and if not, why.
    """
    # grpcio is slow to import, and the daemon's process must never load it.
    from criproxy.client.failures import ask_version

    seconds = duration("--timeout", timeout, "leaves no time for an answer; write it like 10s")
    endpoint = parse_endpoint(runtime_endpoint) if runtime_endpoint else _default_endpoint()
    answer = ask_version(endpoint, api_version, seconds)
    fields = {
        "Version": answer.version,
        "RuntimeName": answer.runtime_name,
        "RuntimeVersion": answer.runtime_version,
        "RuntimeApiVersion": answer.runtime_api_version,
    }
    if output == "json":
        names = {name[0].lower() + name[1:]: value for name, value in fields.items()}
        click.echo(json.dumps(names, indent=2))
        return
    for name, value in fields.items():
        click.echo(f"{name}:  {value}")


def _default_endpoint() -> Endpoint:
    try:
        if stat.S_ISSOCK(Path(DEFAULT_ENDPOINT.path).stat().st_mode):
            return DEFAULT_ENDPOINT
    except OSError:
        pass
    return find_runtime()
