"""Upgrade in place: a new supervisor takes over the listening sockets of this one.

The new one is executed with the same arguments, so it is whatever version is installed by then. It
inherits the listening sockets, and reports over a pipe when its workers serve. Until then this one
serves on; it does so as well if the new one ends or is not ready in time.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass, field
from typing import Final

from criproxy.daemon.supervisor.listening import Descriptors
from criproxy.daemon.supervisor.processes.worker_process import describe_status
from criproxy.errors import UnavailableError

_VARIABLE: Final = "CRIPROXY_UPGRADE"
_READY: Final = b"ready"

_END: Final = 10.0
"""Seconds that a new supervisor that is late has to end after SIGTERM; then it is killed."""


@dataclass(frozen=True, slots=True)
class Inheritance:
    """The descriptors and the address of the HTTP pages that a new supervisor inherits."""

    listening: Descriptors = field(default_factory=dict)
    """Sockets that criproxy has bound."""
    systemd: Descriptors = field(default_factory=dict)
    """Sockets that systemd has passed."""
    http: int | None = None
    ready: int | None = None
    """A pipe to report on that it is ready."""

    @property
    def descriptors(self) -> list[int]:
        """All descriptors."""
        single = [each for each in (self.http, self.ready) if each is not None]
        return [*self.listening.values(), *self.systemd.values(), *single]

    def report_ready(self) -> None:
        """Report to the supervisor before that this one serves."""
        if self.ready is not None:
            with contextlib.suppress(OSError):  # it may have ended: then nobody waits
                os.write(self.ready, _READY)
            os.close(self.ready)


def inherited(environment: MutableMapping[str, str]) -> Inheritance:
    """Return what the supervisor before an upgrade has left in the environment, and remove it."""
    text = environment.pop(_VARIABLE, "")
    if not text:
        return Inheritance()
    found = json.loads(text)
    left = Inheritance(**found)
    for descriptor in left.descriptors:
        os.set_inheritable(descriptor, False)
    return left


async def upgrade(
    listening: Descriptors, systemd: Descriptors, http: int | None, within: float
) -> int:
    """Start a new supervisor and return its process id once it serves.

    ``within`` is in seconds. Raises UnavailableError, saying why it does not; it is killed then.
    """
    reader, writer = os.pipe()
    left = Inheritance(listening, systemd, http, writer)
    environment = os.environ | {_VARIABLE: json.dumps(asdict(left))}
    try:
        child = subprocess.Popen(  # noqa: ASYNC220, S603  # as this process was started itself
            [sys.executable, *sys.orig_argv[1:]],
            pass_fds=left.descriptors,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        os.close(reader)
        raise UnavailableError(f"cannot execute the new version: {error.strerror}") from error
    finally:
        os.close(writer)
    try:
        said = await asyncio.wait_for(_read(reader), within)
    except TimeoutError:
        await asyncio.to_thread(_end, child)
        raise UnavailableError(f"the new version is not ready within {within:g} s") from None
    finally:
        os.close(reader)
    if said != _READY:
        status = await asyncio.to_thread(child.wait)
        how = describe_status(status)
        raise UnavailableError(f"the new version ended with {how}; its own error is in the log")
    child.returncode = 0  # it outlives this process, which must not warn of that
    return child.pid


def _end(child: "subprocess.Popen[bytes]") -> None:
    """End a process, and wait for that."""
    child.terminate()
    try:
        child.wait(_END)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


async def _read(descriptor: int) -> bytes:
    """Return what is written to a pipe first, empty if it is closed before."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
        return os.read(descriptor, len(_READY))
    finally:
        loop.remove_reader(descriptor)
