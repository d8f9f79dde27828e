"""``criproxy uninstall``: puts back what ``criproxy install`` has changed."""

from typing import Any, Final

import click

from criproxy.cli.support.installing import Run, installing_options, reported

_EPILOG: Final = """\
\b
Examples:
  criproxy uninstall --dry-run
  criproxy uninstall --yes
  criproxy uninstall --leave /etc/criproxy/config.yaml --yes

\b
Exit status: 0 removed (or not installed, or --dry-run), 1 it failed, or a file was changed since:
everything is as it was before, 2 an option or a file is wrong, 3 it failed and could not be undone
completely.
"""


@click.command(
    "uninstall", epilog=_EPILOG, short_help="Put back what criproxy install has changed."
)
@click.option(
    "--leave",
    metavar="FILE",
    multiple=True,
    help="A file that stays as it is, such as one that was changed since. May be repeated.",
)
@installing_options
def command(leave: tuple[str, ...], output: str, **options: Any) -> None:
    """Take criproxy out again: each file becomes what it was, with its mode and owner.

    The kubelet is restarted, and criproxy is stopped once the kubelet is healthy without it. Pods
    keep running, because they belong to the runtime. If a file was changed since the installation,
    nothing is done, and the error says which; --leave goes on without it.

    The originals are in /var/lib/criproxy/install, so any copy of criproxy can do it, also after
    the package that was installed is gone. Logs stay.
    """

    def uninstall() -> None:
        run = Run("uninstall", output=output, **options)
        with run.entered():
            manifest = run.operation.installed()
            if manifest is None:
                run.end("unchanged", f"nothing is installed below {run.tree.root}")
                return
            run.carry_out(run.operation.plan_uninstall(manifest, leave))

    reported(uninstall, output)
