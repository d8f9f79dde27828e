"""``criproxy check``: validates a configuration and prints it with every default."""

from pathlib import Path

import click

from criproxy.cli.support.options import config_option
from criproxy.cli.support.settings import configured


@click.command()
@config_option(required=True)
def command(config: Path) -> None:
    """Validate a configuration file and print what would run.

    The output is the configuration with every default filled in. Rules are compiled, including
    those of rules_dir, and their hook scripts are loaded. An error names the file, the line, the
    key and the correction.

    \b
    Example:
      criproxy check -c /etc/criproxy/config.yaml

    \b
    Exit status: 0 the file is valid, 2 it is not.
    """
    from criproxy.config.rule_compilation import compiled
    from criproxy.config.show import show

    loaded = configured(config, {})
    if loaded.rules:
        compiled(loaded)
    click.echo(show(loaded.config), nl=False)
    elsewhere = len(loaded.rules) - len(loaded.config.rules)
    if elsewhere:
        click.echo(f"# and {elsewhere} rules of {loaded.config.rules_dir}")
