"""``criproxy bypass``: lets clients reach the runtime without criproxy, and ends that again."""

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from criproxy.cli.support.options import config_option, output_option
from criproxy.cli.support.tables import print_table
from criproxy.errors import CriproxyError, EndpointError, UsageError

if TYPE_CHECKING:
    from criproxy.config.schema import ListenerConfig
    from criproxy.relay.endpoints import Endpoint

_EPILOG: Final = """\
\b
Examples:
  criproxy bypass status
  criproxy bypass on -c /etc/criproxy/config.yaml
  criproxy bypass off -c /etc/criproxy/config.yaml

\b
Exit status: 0 done (status: no listener is bypassed), 1 a listener could not be changed (status: a
listener is bypassed), 2 an option or a file is wrong.
"""


@click.group("bypass", epilog=_EPILOG, short_help="Let clients reach the runtime directly.")
def command() -> None:
    """Replace the socket of a listener by a link to the runtime's socket, or undo that.

    For the case that criproxy itself fails. No daemon has to run. Clients that connect from then on
    reach the runtime; connections that exist are not affected, so stop the daemon or restart the
    clients if these do not work. Rules, profiles and the audit log do not apply meanwhile.

    Only listeners with the profile full and without allow can be bypassed, because the runtime's
    socket would give other clients more rights.
    """


def _options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that the three commands share."""
    for option in (
        output_option("A table"),
        click.option(
            "--listener",
            "names",
            metavar="ENDPOINT",
            multiple=True,
            help="A listener of the configuration; may be repeated.  [default: all that can be "
            "bypassed]",
        ),
        config_option(required=False),
    ):
        function = option(function)
    return function


@command.command("on", short_help="Bypass criproxy.")
@_options
def on(config: Path | None, names: tuple[str, ...], output: str) -> None:
    """Replace the listeners' sockets by links to the runtime's socket."""
    from criproxy.relay.bypass import bypass

    _change(bypass, config, names, output)


@command.command("off", short_help="End the bypass.")
@_options
def off(config: Path | None, names: tuple[str, ...], output: str) -> None:
    """Put the listeners' own sockets back, or remove the links if no daemon listens."""
    from criproxy.relay.bypass import restore

    _change(restore, config, names, output)


@command.command("status", short_help="Show which listeners are bypassed.")
@_options
def status(config: Path | None, names: tuple[str, ...], output: str) -> None:
    """Show for each listener whether it is bypassed."""
    rows = [_state(each, _why_not(each)) for each in _listeners(config, names)]
    _print(rows, output)
    sys.exit(1 if any(row["bypass"] == "on" for row in rows) else 0)


def _change(
    change: "Callable[[Endpoint, Endpoint], bool]",
    config: Path | None,
    names: tuple[str, ...],
    output: str,
) -> None:
    """Apply ``change`` to each listener that can be bypassed, print the result, and exit."""
    from criproxy.relay.endpoints import find_runtime

    rows, failed = [], False
    for listener in _listeners(config, names):
        unable, error = _why_not(listener), ""
        if unable and names:
            raise UsageError(f"{listener.endpoint} cannot be bypassed: {unable}")
        if not unable:
            runtime = _runtime_of(listener) or find_runtime()
            try:
                change(listener.endpoint, runtime)
            except CriproxyError as raised:
                error, failed = str(raised), True
        rows.append(_state(listener, error or unable))
    _print(rows, output)
    sys.exit(1 if failed else 0)


def _listeners(config: Path | None, names: tuple[str, ...]) -> "list[ListenerConfig]":
    """Return the listeners of the configuration that are named; all if none is."""
    from criproxy.config.load import load
    from criproxy.config.schema import Config
    from criproxy.relay.endpoints import parse_endpoint

    listeners = (Config() if config is None else load(config).config).listeners
    by_endpoint = {each.endpoint: each for each in listeners}
    wanted = [parse_endpoint(name) for name in names]
    for endpoint in wanted:
        if endpoint not in by_endpoint:
            raise UsageError(
                f"the configuration has no listener {endpoint}, but "
                f"{', '.join(map(str, by_endpoint))}"
            )
    return [by_endpoint[endpoint] for endpoint in wanted] or listeners


def _why_not(listener: "ListenerConfig") -> str:
    """Return why a listener cannot be bypassed; the empty string if it can."""
    if listener.profile != "full":
        return f"the profile {listener.profile} restricts its clients"
    if listener.allow is not None:
        return "allow restricts its clients"
    if listener.image not in (None, _runtime_of(listener)):
        return f"its image service is another socket, {listener.image}"
    return ""


def _runtime_of(listener: "ListenerConfig") -> "Endpoint | None":
    """Return a listener's runtime; None if it has to be found and is not there."""
    from criproxy.relay.endpoints import WELL_KNOWN, Endpoint, find_runtime

    if listener.runtime is not None:
        return listener.runtime
    with suppress(EndpointError):
        return find_runtime()
    with suppress(OSError):  # a bypass leads to a runtime that is gone
        if (target := os.readlink(listener.endpoint.path)) in WELL_KNOWN:
            return Endpoint(target)
    return None


def _state(listener: "ListenerConfig", note: str) -> dict[str, str | None]:
    """Return a row of the output."""
    from criproxy.relay.bypass import is_bypassed

    runtime = _runtime_of(listener)
    bypassed = runtime is not None and is_bypassed(listener.endpoint, runtime)
    return {
        "listener": str(listener.endpoint),
        "bypass": "on" if bypassed else "off",
        "runtime": None if runtime is None else str(runtime),
        "note": note or None,
    }


def _print(rows: list[dict[str, str | None]], output: str) -> None:
    if output == "json":
        click.echo(json.dumps({"listeners": rows}, indent=2))
        return
    header = ("LISTENER", "BYPASS", "RUNTIME", "NOTE")
    cells = [[row[name.lower()] or "-" for name in header] for row in rows]
    print_table([header, *cells])
