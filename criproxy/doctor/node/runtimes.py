"""Determines which sockets of runtimes there are on a node."""

from collections.abc import Iterator
from typing import Final

from criproxy.config.schema import Config
from criproxy.doctor.node.system import System, is_socket
from criproxy.relay.endpoints import WELL_KNOWN, Endpoint

OTHER_SOCKETS: Final = {
    "/run/containerd/containerd.sock.ttrpc": "containerd's socket for ttrpc",
    "/run/containerd/debug.sock": "containerd's debug socket",
    "/run/k3s/containerd/containerd.sock.ttrpc": "the ttrpc socket of k3s's containerd",
    "/run/k3s/containerd/debug.sock": "the debug socket of k3s's containerd",
    "/run/k0s/containerd.sock.ttrpc": "the ttrpc socket of k0s's containerd",
    "/run/docker/containerd/containerd-debug.sock": "the debug socket of Docker's containerd",
    "/run/nri/nri.sock": "the socket for NRI plugins",
}
"""Further sockets of runtimes, over which containers can be changed: criproxy does not see them."""

_CRIO: Final = "/run/crio"
"""CRI-O's directory, in which conmon has one for each container."""

SHIMS: Final = "/run/containerd/s"
"""The directory with the sockets of containerd's shims, also of k3s's: one for each pod."""


def runtimes_of(config: Config, system: System, option: Endpoint | None = None) -> list[Endpoint]:
    """Return the runtimes' sockets: the option's, else the listeners' upstreams.

    A listener without one has the first that answers the CRI, else the first that exists; none if
    no runtime is there.
    """
    if option is not None:
        return [option]
    upstreams: list[Endpoint | None] = []
    for listener in config.listeners:
        upstreams += [listener.runtime or _found(config, system), listener.image]
    return list(dict.fromkeys(each for each in upstreams if each is not None))


def _found(config: Config, system: System) -> Endpoint | None:
    own = {each.endpoint.path for each in config.listeners}
    existing = [path for path in WELL_KNOWN if path not in own and is_socket(system.path(path))]
    answering = (path for path in existing if system.why_no_runtime(str(system.path(path))) is None)
    path = next(answering, next(iter(existing), None))
    return None if path is None else Endpoint(path)


def other_sockets(system: System) -> Iterator[tuple[str, str]]:
    """Yield path and description of each further socket that exists."""
    for path, what in OTHER_SOCKETS.items():
        if is_socket(system.path(path)):
            yield path, what


def attach_sockets(system: System) -> list[str]:
    """Return the paths of the sockets for the streams of CRI-O's containers. Raises OSError."""
    directory = system.path(_CRIO)
    if not directory.exists():
        return []
    found = (each / "attach" for each in directory.iterdir())
    return sorted(f"{_CRIO}/{each.parent.name}/attach" for each in found if is_socket(each))


def shim_sockets(system: System) -> list[str]:
    """Return the paths of the sockets of containerd's shims. Raises OSError."""
    directory = system.path(SHIMS)
    if not directory.exists():
        return []
    return sorted(f"{SHIMS}/{each.name}" for each in directory.iterdir() if is_socket(each))
