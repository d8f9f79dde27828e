"""Gathers once what the checks share: which processes hold the sockets' connections."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from criproxy.config.schema import Config, ListenerConfig
from criproxy.doctor.node.runtimes import SHIMS, other_sockets
from criproxy.doctor.node.system import System
from criproxy.errors import UnavailableError
from criproxy.peers.credentials import Kubelet
from criproxy.peers.sock_diag import UnixSocket
from criproxy.peers.socket_holders import bound_at, client_inodes, listening_sockets
from criproxy.relay.endpoints import Endpoint


@dataclass
class Facts:
    """Facts about a node, its runtimes and its criproxy."""

    system: System
    config: Config
    runtimes: Sequence[Endpoint]
    """The sockets of the runtimes and of separate image services."""
    configured: bool = True
    """Whether the configuration was read from a file, rather than being the default."""
    sockets_error: str = ""
    """Why the kernel's sockets could not be read; empty if they were."""
    listening: set[str] = field(default_factory=set)
    """Paths of runtimes' sockets with a listening socket."""
    clients: dict[str, Counter[int]] = field(default_factory=dict)
    """Number of connections by pid, by the path of a runtime's socket."""
    other_clients: dict[str, Counter[int]] = field(default_factory=dict)
    """The same of the runtimes' further sockets; those of all shims by the directory's path."""
    unidentified: Counter[str] = field(default_factory=Counter)
    """Number of connections without a known process, by path."""
    unreadable: int = 0
    """Number of processes whose descriptors could not be read."""
    criproxy: dict[str, list[int]] = field(default_factory=dict)
    """Pids of the listening processes, by the path of a listener."""
    runtime_pids: set[int] = field(default_factory=set)
    """Pids of the processes that listen at the runtimes' sockets."""

    @property
    def kubelet(self) -> Kubelet:
        """The configuration's criteria for the kubelet."""
        return Kubelet(self.config.kubelet.executable, self.config.kubelet.unit)

    @property
    def criproxy_pids(self) -> set[int]:
        """Pids of the processes that listen at the configured listeners."""
        return {pid for pids in self.criproxy.values() for pid in pids}

    @property
    def full(self) -> list[ListenerConfig]:
        """The listeners with the profile full."""
        return [each for each in self.config.listeners if each.profile == "full"]

    @property
    def advised(self) -> Endpoint:
        """The endpoint advised to clients that need every method."""
        return (self.full or self.config.listeners)[0].endpoint

    def is_kubelet(self, pid: int) -> bool:
        """Return whether a process is the kubelet by the configuration's criteria."""
        process = self.system.process(pid)
        return process.uid is not None and self.kubelet.matches(
            process.uid, process.executable, process.cgroup
        )

    def looks_like_criproxy(self, pid: int) -> bool:
        """Return whether a command line looks like criproxy's. Any process can choose that."""
        words = self.system.process(pid).command
        named = any(word.rpartition("/")[2] == "criproxy" for word in words[:2])
        return "run" in words and (named or words[1:3] == ("-m", "criproxy"))


def gather(
    system: System, config: Config, runtimes: Sequence[Endpoint], configured: bool = True
) -> Facts:
    """Read the kernel's sockets and the processes that hold the relevant ones. Never raises."""
    facts = Facts(system, config, runtimes, configured=configured)
    try:
        sockets = system.sockets()
    except UnavailableError as error:
        facts.sockets_error = str(error)
        return facts
    at_runtime = {each.path: _at(system, each.path, sockets) for each in runtimes}
    at_listener = {
        each.endpoint.path: listening_sockets(_at(system, each.endpoint.path, sockets))
        for each in config.listeners
    }
    at_other = {path: _at(system, path, sockets) for path, _ in other_sockets(system)}
    at_other[SHIMS] = [each for each in sockets if _is_of_shim(system, each)]
    wanted = {each.inode for found in at_listener.values() for each in found}
    for found in at_other.values():
        wanted |= client_inodes(found)
    for found in at_runtime.values():
        wanted |= {each.inode for each in listening_sockets(found)}
        wanted |= client_inodes(found)
    holders, facts.unreadable = system.holders(wanted - {0})
    for path, found in at_listener.items():
        facts.criproxy[path] = sorted(
            {pid for each in found for pid in holders.get(each.inode, [])}
        )
    for path, found in at_other.items():
        pids = [pid for peer in client_inodes(found) for pid in holders.get(peer, [])]
        facts.other_clients[path] = Counter(pids)
    for path, found in at_runtime.items():
        listening = listening_sockets(found)
        if listening:
            facts.listening.add(path)
        facts.runtime_pids |= {pid for each in listening for pid in holders.get(each.inode, [])}
        facts.clients[path] = Counter()
        for peer in client_inodes(found):
            facts.clients[path].update(holders.get(peer, []))
            if peer not in holders:
                facts.unidentified[path] += 1
    return facts


def _at(system: System, path: str, sockets: list[UnixSocket]) -> list[UnixSocket]:
    """Return the sockets bound at a path of the node."""
    real = os.path.realpath(system.path(path))
    return bound_at({path, str(system.path(path)), real}, real, sockets)


def _is_of_shim(system: System, each: UnixSocket) -> bool:
    """Return whether a socket is bound below the directory of the shims' sockets."""
    return each.name.startswith((f"{SHIMS}/", f"{system.path(SHIMS)}/"))
