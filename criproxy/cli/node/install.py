"""``criproxy install``: puts criproxy in front of this node's kubelet."""

import shutil
import sys
from pathlib import Path
from typing import Any, Final

import click

from criproxy.cli.support.installing import Run, installing_options, reported

_EPILOG: Final = """\
\b
Examples:
  criproxy install --dry-run
  criproxy install --yes
  criproxy install --root /mnt/image --yes
  criproxy install --root /host --systemctl "chroot /host systemctl" --yes

\b
Exit status: 0 installed (or nothing to do, or --dry-run), 1 it failed and everything is as it was
before, 2 an option or a file is wrong, 3 it failed and could not be undone completely.
"""


@click.command("install", epilog=_EPILOG, short_help="Put criproxy in front of the kubelet.")
@click.option(
    "--program",
    metavar="PATH",
    help="The criproxy that the service runs, within DIR.  [default: this one]",
)
@click.option(
    "--runtime-endpoint",
    metavar="E",
    help="The runtime's socket: unix:///path or a bare path.  [default: where the kubelet is "
    "pointed]",
)
@click.option(
    "--listen",
    metavar="E",
    help="Where criproxy listens.  [default: unix:///run/criproxy/criproxy.sock; in front of "
    "CRI-O unix:///run/criproxy/run/crio/crio.sock]",
)
@click.option(
    "--kubelet-unit",
    metavar="UNIT",
    help="The service that runs the kubelet.  [default: that of kubeadm, k3s, RKE2, k0s or "
    "MicroK8s, whichever is there]",
)
@installing_options
def command(
    kubelet_unit: str | None,
    listen: str | None,
    runtime_endpoint: str | None,
    program: str | None,
    output: str,
    **options: Any,
) -> None:
    """Put criproxy in front of the kubelet of this node.

    It finds how the kubelet is configured, shows what it would change, and asks. Then it writes
    criproxy's units and its configuration, starts it, compares its answers with the runtime's,
    points the kubelet and crictl at it, restarts the kubelet, and waits until that is healthy and
    connected. If a step fails, or a signal comes, everything becomes what it was. A run that was
    killed is found by the next one, which finishes or undoes it.

    With --root DIR it changes the files below DIR and starts nothing, unless --systemctl is given.

    It can be repeated: it changes what is not as it should be, and after an update of the package
    it replaces the running criproxy without losing a call.
    """
    from criproxy.install.planning.install import Wanted
    from criproxy.relay.endpoints import parse_endpoint

    def install() -> None:
        run = Run("install", output=output, **options)
        with run.entered():
            wanted = Wanted(
                program or _own_program(),
                run.services,
                kubelet_unit,
                None if listen is None else parse_endpoint(listen),
                None if runtime_endpoint is None else parse_endpoint(runtime_endpoint),
            )
            run.carry_out(run.operation.plan_install(wanted))

    reported(install, output)


def _own_program() -> str:
    """Return the path of the command that belongs to this interpreter."""
    beside = Path(sys.executable).with_name("criproxy")
    return str(beside) if beside.exists() else shutil.which("criproxy") or str(beside)
