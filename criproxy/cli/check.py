"""``criproxy check``: is the configuration right, and what would run."""

from pathlib import Path

import click

from criproxy.cli.settings import config_option, configured


@click.command()
@config_option(required=True)
def command(config: Path) -> None:
    """Validate a configuration file and print what would run.

    An error names the file, the line, the key and the mend, and ends with status 2.

    \b
    Example:
      criproxy check -c /etc/criproxy/config.yaml
    """
    from criproxy.config.show import show

    click.echo(show(configured(config, {})), nl=False)
