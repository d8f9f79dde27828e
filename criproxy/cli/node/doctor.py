"""``criproxy doctor``: finds clients that bypass criproxy on this node."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from criproxy.cli.support.options import config_option, output_option, usual_config
from criproxy.common.printable import printable

if TYPE_CHECKING:
    from criproxy.doctor.findings import Finding

_EPILOG: Final = """\
\b
Examples:
  criproxy doctor -c /etc/criproxy/config.yaml
  criproxy doctor --runtime-endpoint unix:///run/crio/crio.sock -o json

\b
Exit status: 0 no findings, 1 findings, 2 an option is wrong.
"""

_COLOURS: Final = {"OK": "green", "WARN": "yellow", "FAIL": "red", "cannot tell": "cyan"}
_INDENT: Final = 13
"""Width of the outcome column, in characters."""


@click.command(
    "doctor", epilog=_EPILOG, short_help="Find clients that bypass criproxy on this node."
)
@config_option(required=False)
@click.option(
    "--runtime-endpoint",
    metavar="E",
    help="The runtime's socket: unix:///path or a bare path. Without it the configuration's, else "
    "the first that answers where runtimes usually listen.",
)
@output_option("Lines")
def command(config: Path | None, runtime_endpoint: str | None, output: str) -> None:
    """Find clients that bypass criproxy on this node, and how to prevent it.

    It examines who is connected to the runtime's socket, the modes and owners of sockets, the
    endpoint of the kubelet, containers that have the socket mounted, and criproxy itself. It
    changes nothing. Run it as root; it reports what it cannot examine without the rights, and what
    is not there. Without -c it reads /etc/criproxy/config.yaml, if that exists.
    """
    from criproxy.config.load import LoadedConfig, load
    from criproxy.config.schema import Config
    from criproxy.doctor.examine import examine
    from criproxy.doctor.findings import as_rows
    from criproxy.doctor.node.runtimes import runtimes_of
    from criproxy.doctor.node.system import System
    from criproxy.relay.endpoints import parse_endpoint

    option = None if runtime_endpoint is None else parse_endpoint(runtime_endpoint)
    config = config or usual_config()
    loaded = LoadedConfig(Config()) if config is None else load(config)
    system = System()
    runtimes = runtimes_of(loaded.config, system, option)
    findings = examine(system, loaded.config, runtimes, configured=config is not None)
    text = json.dumps(as_rows(findings), indent=2) if output == "json" else _as_text(findings)
    click.echo(text)
    sys.exit(1 if any(finding.found for finding in findings) else 0)


def _as_text(findings: "list[Finding]") -> str:
    lines = []
    for each in findings:
        outcome = each.outcome.value
        label = click.style(outcome.ljust(_INDENT), fg=_COLOURS[outcome], bold=each.found)
        lines.append(f"{label}{each.check}: {printable(each.what)}")
        if each.remedy:
            lines.append(f"{' ' * _INDENT}-> {printable(each.remedy)}")
    found = sum(each.found for each in findings)
    lines.append(f"{found or 'no'} finding{'' if found == 1 else 's'}")
    return "\n".join(lines)
