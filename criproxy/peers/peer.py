"""A client's process and its connection, as plain values."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a unix socket.

    ``pid``, ``uid`` and ``gid`` are the kernel's (SO_PEERCRED); ``pid`` is 0 for a process in a PID
    namespace outside ours. The rest is from /proc, as of the time when the connection was accepted:
    ``executable`` is a path, None if unknown; ``command`` is the command line, its first 8 KiB;
    ``unit`` (systemd's), ``container`` (the runtime's id) and ``pod_uid`` (Kubernetes's) are from
    the cgroup, None if it names none. ``kubelet`` is true if the process is the node's kubelet
    according to the configuration.
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
    """A client's connection: the name of the listener that accepted it, and the client."""

    listener: str
    peer: Peer
    opened: float = field(compare=False)
    """When it was accepted, in seconds of the clock that times calls."""

    def fields(self) -> dict[str, Any]:
        """Return the connection's fields of a log line."""
        return {
            "listener": self.listener,
            "pid": self.peer.pid,
            "uid": self.peer.uid,
            "executable": self.peer.executable,
        }
