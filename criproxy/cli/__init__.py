"""The command line: one module a command, each imported only when it is called."""

import importlib
import sys
from typing import Any, Final

import click

from criproxy import __version__
from criproxy.errors import CriproxyError

_COMMANDS: Final = {
    "run": "run",
    "check": "check",
    "rules": "rules",
    "audit": "audit",
    "version": "version",
    "doctor": "doctor",
    "runtime": "runtime",
    "demo": "demo",
    "completion": "completion",
}
"""Each command and the module of this package that has it as ``command``."""


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


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """A proxy for the Container Runtime Interface that sees every call and keeps to its rules.

    criproxy listens at a unix socket, passes what comes on to the container runtime byte by byte,
    and tells of each call in a log and in Prometheus metrics. Rules pick out calls that are to be
    rewritten, delayed, failed, denied, limited or shown to a hook.

    \b
    Examples:
      criproxy run                      in front of the runtime found on this node
      crictl -r unix:///run/criproxy/criproxy.sock ps
      criproxy demo                     see it at work, no runtime needed
    """


def main() -> None:
    """Run the command line. What a user did wrong ends as one line on stderr."""
    try:
        cli(prog_name="criproxy")
    except CriproxyError as error:
        click.echo(f"criproxy: {error}", err=True)
        sys.exit(error.exit_code)
