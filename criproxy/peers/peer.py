"""Who is connected: plain values that every room may carry."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a unix socket, as the kernel vouches for it (SO_PEERCRED).

    ``executable`` is what /proc named when the connection was made; None where it would not say
    (the process is gone already, or lives in a PID namespace that is not ours: ``pid`` 0). The
    rest comes from there as well: ``command`` is its command line, the first 8 KiB of a longer one;
    ``unit`` (of systemd), ``container`` (the runtime's id) and ``pod_uid`` (Kubernetes's) are from
    its cgroup, None where that names none. ``kubelet`` tells that it is the node's, as far as the
    configuration knows it.
    """

    pid: int
    uid: int
    gid: int
    executable: str | None
    command: tuple[str, ...] = ()
    unit: str | None = None
    container: str | None = None
    pod_uid: str | None = None
    kubelet: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Connection:
    """A client's connection: the listener that took it, and whose it is."""

    listener: str
    peer: Peer
    opened: float = field(compare=False)
    """When it was accepted: seconds of the clock that calls are timed with."""

    def fields(self) -> dict[str, Any]:
        """What a log line says of it."""
        return {
            "listener": self.listener,
            "pid": self.peer.pid,
            "uid": self.peer.uid,
            "executable": self.peer.executable,
        }
