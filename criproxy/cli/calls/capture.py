"""``criproxy capture``: has a running daemon write the last minutes."""

from pathlib import Path
from typing import Final

import click

from criproxy.cli.support.admin_client import AdminClient, admin_endpoint, admin_options

_EPILOG: Final = """\
\b
Examples:
  criproxy capture
  criproxy pods $(criproxy capture -c /etc/criproxy/config.yaml)

\b
Exit status: 0 a cassette was begun, 1 the daemon does not answer, captures nothing or cannot write,
2 an option or a file is wrong.
"""


@click.command("capture", epilog=_EPILOG, short_help="Have the last minutes of calls written.")
@admin_options
def command(admin: str | None, config: Path | None) -> None:
    """Have a running daemon write a cassette of the last calls, and print its path.

    The daemon has to have capture in its configuration, and an admin socket. What it has kept is in
    the file when the command ends; the recording goes on for capture.after. While a cassette is
    being written, its path is printed, and no other one is begun.
    """
    click.echo(AdminClient(admin_endpoint(admin, config)).post("capture")["path"])
