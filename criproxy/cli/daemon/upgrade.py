"""``criproxy upgrade``: replaces a running daemon by the installed version."""

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from criproxy.cli.support.options import config_option, duration
from criproxy.errors import UnavailableError

if TYPE_CHECKING:
    from criproxy.config.schema import Config
    from criproxy.relay.endpoints import Endpoint

_EPILOG: Final = """\
\b
Examples:
  criproxy upgrade
  criproxy upgrade -c /etc/criproxy/config.yaml --timeout 30s

\b
Exit status: 0 a new process serves, 1 it does not, 2 an option or a file is wrong.
"""

_POLL_SECONDS: Final = 0.1


@click.command("upgrade", epilog=_EPILOG, short_help="Replace a running daemon in place.")
@config_option(required=False)
@click.option(
    "--timeout",
    metavar="DURATION",
    default="2m",
    show_default=True,
    help="How long to wait until the new process serves.",
)
def command(config: Path | None, timeout: str) -> None:
    """Replace a running daemon by the version that is installed now.

    The daemon that listens at the configuration's first listener starts a new process, which takes
    over the listening sockets. Calls in flight end on the old one. If the new process does not
    become ready, the old one continues.
    """
    from criproxy.config.load import load
    from criproxy.config.schema import Config

    seconds = duration("--timeout", timeout, "leaves no time; write it like 2m")
    settings = Config() if config is None else load(config).config
    endpoint = settings.listeners[0].endpoint
    pid = _daemon(endpoint, settings)
    try:
        os.kill(pid, signal.SIGUSR2)
    except PermissionError:
        raise UnavailableError(
            f"criproxy (pid {pid}) may not be signalled by this user; run it as root"
        ) from None
    successor = _wait(endpoint, pid, seconds)
    click.echo(f"upgraded: pid {successor} has replaced pid {pid}")


def _daemon(endpoint: "Endpoint", config: "Config") -> int:
    """Return the process that listens at an endpoint. Raises UnavailableError if not criproxy."""
    from criproxy.doctor.node.facts import Facts
    from criproxy.doctor.node.system import System
    from criproxy.relay.bypass import is_bypassed

    for listener in config.listeners:
        if listener.runtime is not None and is_bypassed(listener.endpoint, listener.runtime):
            raise UnavailableError(
                f"{listener.endpoint} is bypassed, so that no process can take it over; "
                "end that first: criproxy bypass off"
            )
    pid = _listening_pid(endpoint)
    facts = Facts(System(), config, ())
    if not facts.looks_like_criproxy(pid):
        raise UnavailableError(
            f"{endpoint} is listened on by {facts.system.process(pid)}, which is not criproxy run"
        )
    if not _handles_upgrades(facts.system.status(pid).get("SigCgt", "0")):
        raise UnavailableError(
            f"criproxy (pid {pid}) is a version that cannot be upgraded in place; restart it"
        )
    return pid


def _handles_upgrades(caught: str) -> bool:
    """Return whether a mask of caught signals (proc(5), SigCgt) has the upgrade's: others die."""
    return bool(int(caught, 16) >> signal.SIGUSR2 - 1 & 1)


def _wait(endpoint: "Endpoint", pid: int, seconds: float) -> int:
    """Wait until another process than ``pid`` listens. Raises UnavailableError at the limit."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        if (successor := _listening_pid(endpoint)) != pid:
            return successor
    raise UnavailableError(
        f"criproxy (pid {pid}) has not been replaced within {seconds:g} s and continues; "
        "its log says why"
    )


def _listening_pid(endpoint: "Endpoint") -> int:
    """Return the process that listens at an endpoint (SO_PEERCRED). Raises UnavailableError."""
    from criproxy.peers.credentials import peer_pid
    from criproxy.relay.dial import connect

    try:
        with connect(endpoint) as client:
            pid = peer_pid(client)
    except OSError as error:
        raise UnavailableError(
            f"{endpoint}: {error.strerror}; is criproxy running with this configuration?"
        ) from error
    if not pid:
        raise UnavailableError(
            f"the process that listens at {endpoint} is in another PID namespace; "
            "run it in the node's (hostPID)"
        )
    return pid
