"""The listening sockets: bound here, inherited by the workers, kept over reloads and upgrades.

A socket comes from one of three places: it is bound at its path; systemd has passed it
(sd_listen_fds(3)); or the supervisor before an upgrade has. A socket of systemd stays in place when
the daemon ends, so that clients wait instead of being refused.
"""

import contextlib
import os
import socket
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Final

from criproxy.config.schema import ListenerConfig
from criproxy.daemon.supervisor.processes.worker_plan import WorkerPlan
from criproxy.observe.logs.log import Log
from criproxy.relay.endpoints import Endpoint
from criproxy.relay.sockets import (
    BACKLOG,
    Access,
    BoundSocket,
    access_of,
    adopt,
    bind,
    inherit,
    listening_process,
)

_FIRST_PASSED: Final = 3
"""The first descriptor that systemd passes (SD_LISTEN_FDS_START)."""

PROCESS_NAME: Final = "criproxy"
"""The name of the supervisor (proc(5), comm)."""

Descriptors = Mapping[str, int]
"""Descriptors of listening sockets, by their paths."""


def passed_by_systemd(environment: MutableMapping[str, str]) -> Descriptors:
    """Return the unix sockets that systemd has passed.

    The variables are removed from ``environment``, so that no child takes them for its own.
    """
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    found = {}
    for descriptor in range(_FIRST_PASSED, _FIRST_PASSED + int(count)):
        os.set_inheritable(descriptor, False)
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            if sock.family == socket.AF_UNIX:
                found[os.path.realpath(sock.getsockname())] = descriptor
    return found


class ListeningSockets:
    """The sockets of all listeners, by endpoint."""

    def __init__(
        self, systemd: Descriptors, inherited: Descriptors, replace: bool, log: Log
    ) -> None:
        """``systemd`` was passed by systemd, ``inherited`` by the supervisor before an upgrade.

        ``replace``: the sockets of another criproxy are taken over.
        """
        self._replace = replace
        self.replaced: set[int] = set()
        """The supervisors whose sockets were taken over."""
        self._systemd = systemd
        self._inherited = dict(inherited)
        self._log = log
        self._bound: dict[Endpoint, BoundSocket] = {}

    def open(self, listeners: Sequence[ListenerConfig]) -> list[Endpoint]:
        """Open the sockets of listeners that have none yet; return the endpoints of these.

        Raises UnavailableError or EndpointError, and opens none then.
        """
        opened: list[Endpoint] = []
        try:
            for each in listeners:
                if each.endpoint not in self._bound:
                    self._bound[each.endpoint] = self._open(each)
                    opened.append(each.endpoint)
        except BaseException:
            self.close(opened)
            raise
        return opened

    def take_over(self) -> None:
        """Have the credentials that clients see (SO_PEERCRED) be those of this process.

        It ends the time in which the supervisor before an upgrade counts as the one that listens.
        """
        for each in self._bound.values():
            each.socket.listen(BACKLOG)

    def report_unused(self) -> None:
        """Log which sockets of systemd are those of no listener."""
        paths = {_real(endpoint) for endpoint in self._bound}
        for path in self._systemd:
            if path not in paths:
                self._log.warning(
                    "socket passed by systemd is not used",
                    path=path,
                    note="name it as the endpoint of a listener, or remove it from criproxy.socket",
                )

    def close(self, endpoints: Sequence[Endpoint]) -> None:
        """Close the sockets of endpoints, and unlink those that systemd does not keep."""
        for each in endpoints:
            bound = self._bound.pop(each)
            if self._is_systemds(each):
                bound.socket.close()
            else:
                bound.close()

    def close_unused(self, listeners: Sequence[ListenerConfig]) -> None:
        """Close the sockets of all but these listeners."""
        kept = {each.endpoint for each in listeners}
        self.close([each for each in self._bound if each not in kept])

    def close_all(self) -> None:
        """Close every socket."""
        self.close(list(self._bound))

    def abandon(self) -> None:
        """Close every descriptor and leave the sockets in place: another supervisor has them."""
        for each in self._bound.values():
            each.socket.close()
        self._bound.clear()

    def unlink(self) -> None:
        """Remove the sockets from the file system, so that no more clients find them."""
        for endpoint, bound in self._bound.items():
            if not self._is_systemds(endpoint):
                bound.unlink()

    def grant(self, listeners: Sequence[ListenerConfig]) -> None:
        """Set owner and mode of each listener's socket as it is configured now."""
        for each in listeners:
            if not self._is_systemds(each.endpoint):
                with contextlib.suppress(OSError):
                    self._bound[each.endpoint].grant(_access(each))

    def sockets_of(self, plan: WorkerPlan) -> list[socket.socket]:
        """Return the sockets of a plan's listeners, in their order."""
        return [self._bound[each.endpoint].socket for each in plan.listeners]

    def descriptors(self, systemd: bool) -> Descriptors:
        """Return the sockets that systemd has passed, or the others."""
        return {
            _real(endpoint): bound.socket.fileno()
            for endpoint, bound in self._bound.items()
            if self._is_systemds(endpoint) is systemd
        }

    def _is_systemds(self, endpoint: Endpoint) -> bool:
        return _real(endpoint) in self._systemd

    def _open(self, listener: ListenerConfig) -> BoundSocket:
        path = _real(listener.endpoint)
        inherited = self._inherited.pop(path, None)
        if inherited is not None:
            return inherit(socket.socket(fileno=inherited), listener.endpoint)
        descriptor = self._systemd.get(path)
        if descriptor is None:
            replaced = criproxy_at(listener.endpoint) if self._replace else None
            bound = bind(listener.endpoint, _access(listener), replaced)
            self.replaced |= {replaced} if replaced is not None else set()
            return bound
        return adopt(socket.socket(fileno=descriptor), listener.endpoint)


def criproxy_at(endpoint: Endpoint) -> int | None:
    """Return the process id of the supervisor that listens at an endpoint, if one does."""
    pid = listening_process(endpoint)
    try:
        return pid if Path(f"/proc/{pid}/comm").read_text() == f"{PROCESS_NAME}\n" else None
    except OSError:
        return None


def _real(endpoint: Endpoint) -> str:
    return os.path.realpath(endpoint.path)


def _access(listener: ListenerConfig) -> Access:
    """Return who may connect: as configured, otherwise as for the runtime's socket."""
    uid, gid = listener.owner or (None, None)
    assert listener.runtime is not None  # filled in before
    copied = access_of(listener.runtime) or Access()
    return Access(listener.mode, uid, gid).or_else(copied)
