"""``criproxy completion``: prints a shell's completion script."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script for a shell.

    \b
    Examples:
      criproxy completion bash > /etc/bash_completion.d/criproxy
      criproxy completion zsh > "${fpath[1]}/_criproxy"
      criproxy completion fish > ~/.config/fish/completions/criproxy.fish
    """
    from criproxy.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None  # click has one for each of these shells
    click.echo(kind(cli, {}, "criproxy", "_CRIPROXY_COMPLETE").source())
