"""``criproxy support``: packs what is needed to find out what is wrong, without secrets."""

import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from criproxy.cli.support.options import config_option, usual_config
from criproxy.common.printable import printable
from criproxy.configtypes.values import parse_size
from criproxy.errors import ConfigError, UnavailableError

_EPILOG: Final = """\
\b
Examples:
  criproxy support
  criproxy support -c /etc/criproxy/config.yaml -o /tmp/node-7.tar.gz --log-size 4MiB

\b
Exit status: 0 the archive is written, also without what could not be had; 1 it could not be
written; 2 an option or a file is wrong.
"""


def _size(_: click.Context, parameter: click.Parameter, text: str) -> int:
    from criproxy.support_bundle.bundle import PART_LIMIT

    try:
        size = parse_size(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param=parameter) from error
    if not 0 < size <= PART_LIMIT:
        raise click.BadParameter(f"{text} is not between 1 and {PART_LIMIT} bytes", param=parameter)
    return size


def _default_name() -> Path:
    now = datetime.now(UTC)
    return Path(f"criproxy-support-{socket.gethostname()}-{now:%Y%m%dT%H%M%SZ}.tar.gz")


@click.command("support", epilog=_EPILOG, short_help="Pack what is needed to find a fault.")
@config_option(required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The archive, which must not exist yet.  "
    "[default: criproxy-support-HOST-TIME.tar.gz in this directory]",
)
@click.option(
    "--address",
    metavar="HOST:PORT",
    help="Where the daemon serves HTTP.  [default: the configuration's metrics.address]",
)
@click.option(
    "--log-size",
    callback=_size,
    metavar="SIZE",
    default="2MiB",
    show_default=True,
    help="How much of the end of each log is taken: at most 8MiB.",
)
def command(config: Path | None, output: Path | None, address: str | None, log_size: int) -> None:
    """Write an archive for whoever looks into a fault of this node.

    It has the configuration and its rules, the versions of criproxy, Python, the packages and the
    runtime, the daemon's metrics, rules and calls in flight, the ends of its log and of its
    journal, and the findings of criproxy doctor. Values of headers and environment variables,
    credentials and tokens are replaced. Look through it before you pass it on, because names of
    pods, images and programs remain. The audit log is not in it.

    The daemon need not run: what cannot be had is reported, and left out. Run it as root. Without
    -c it reads /etc/criproxy/config.yaml, if that exists. Each file in the archive has at most
    8 MiB.
    """
    from criproxy.cli.support.http_client import address_of, get_page
    from criproxy.config.load import LoadedConfig, load
    from criproxy.config.schema import Config
    from criproxy.config.yaml_document import read_text
    from criproxy.support_bundle.bundle import PART_LIMIT, write
    from criproxy.support_bundle.parts import parts

    path = config or usual_config()
    loaded = LoadedConfig(Config())
    if path is not None:
        read_text(path, "; see -c")
        try:
            loaded = load(path)
        except ConfigError as error:
            click.echo(f"criproxy: the defaults apply to what follows: {error}", err=True)
    where = (
        None
        if address is None and loaded.config.metrics.address is None
        else address_of(address, loaded.config)
    )

    def fetch(page: str) -> bytes:
        if where is None:
            raise UnavailableError("metrics.address is null: the daemon serves no HTTP")
        return get_page(where, page, PART_LIMIT + 1)[2]

    target = output or _default_name()
    written = write(target, parts(path, loaded, fetch, log_size))
    for name, reason in written.missing.items():
        click.echo(f"without {name}: {printable(reason)}", err=True)
    size = sum(written.sizes.values()) / 1024
    click.echo(f"{target}: {len(written.sizes)} files, {size:.0f} KiB before compression")
