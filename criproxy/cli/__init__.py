"""The command line: one module a command, each imported only when it is called."""

import importlib
import platform
import sys
from typing import Any, Final

import click

from criproxy import __version__, wire
from criproxy.errors import CriproxyError

_COMMANDS: Final = {
    "run": "daemon.run",
    "check": "daemon.check",
    "rules": "rules",
    "audit": "audit",
    "top": "calls.top",
    "pods": "calls.pods",
    "report": "calls.report",
    "tail": "calls.tail",
    "record": "calls.record",
    "capture": "calls.capture",
    "replay": "calls.replay",
    "export": "calls.export",
    "version": "version",
    "doctor": "node.doctor",
    "support": "node.support_bundle",
    "bypass": "daemon.bypass",
    "upgrade": "daemon.upgrade",
    "install": "node.install",
    "uninstall": "node.uninstall",
    "runtime": "runtime",
    "demo": "demo",
    "completion": "completion",
}
"""Each command and the module of this package that has it as ``command``."""


BUILD: Final = "interpreted" if (wire.__file__ or "").endswith(".py") else "compiled"
"""Whether the modules that may be compiled are."""


class _Commands(click.Group):
    """Commands that are imported when they are asked for: the daemon carries none of the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = importlib.import_module(f"criproxy.cli.{module}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise click.UsageError(
                f"{error.format_message()} There are: {', '.join(_COMMANDS)}.", ctx
            ) from None


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from criproxy.common.commit import commit

        python = platform.python_version()
        click.echo(f"criproxy {__version__} ({BUILD}, commit {commit()}, Python {python})")
        context.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version, the commit it was built from, and Python's version.",
)
def cli() -> None:
    """A byte-transparent proxy for the Kubernetes Container Runtime Interface (CRI).

    criproxy listens on a unix socket, relays every connection byte by byte to the container
    runtime, and reports each call in a log and in Prometheus metrics. Rules select calls that are
    rewritten, delayed, failed, denied, limited or passed to a hook. An audit log records who asked
    the runtime for what.

    \b
    Examples:
      criproxy run                      in front of the runtime found on this node
      crictl -r unix:///run/criproxy/criproxy.sock ps
      criproxy demo                     show the proxy at work, without a runtime

    \b
    Files:
      /etc/criproxy/config.yaml         the configuration that the systemd unit uses
      /run/criproxy/criproxy.sock       the default socket for clients
      /var/lib/criproxy/install/        what install has replaced, for uninstall
      /var/log/criproxy/                where the systemd unit lets the daemon write logs

    \b
    Environment:
      NOTIFY_SOCKET                     where run reports readiness to systemd
      WATCHDOG_USEC                     how often run reports to systemd's watchdog
      CONTAINER_RUNTIME_ENDPOINT        crictl's endpoint, which doctor examines
      NO_COLOR                          if set, demo, pods, tail and top show no colours
      TMPDIR                            where report keeps its database while it runs
      _CRIPROXY_COMPLETE                set by the completion scripts

    \b
    Exit status: 0 success, 1 something needed is unavailable or a check failed, 2 wrong options
    or a wrong file, 3 something that failed could not be undone.
    """


def main() -> None:
    """Run the command line. What a user did wrong ends as one line on stderr."""
    try:
        cli(prog_name="criproxy")
    except CriproxyError as error:
        click.echo(f"criproxy: {error}", err=True)
        sys.exit(error.exit_code)
