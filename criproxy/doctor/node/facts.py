"""What the checks share, gathered once: whose ends the connections to the sockets are."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from criproxy.config.schema import Config, ListenerConfig
from criproxy.doctor.node.sock_diag import LISTEN, UnixSocket
from criproxy.doctor.node.system import System
from criproxy.errors import UnavailableError
from criproxy.peers.credentials import Kubelet
from criproxy.relay.endpoints import Endpoint


@dataclass
class Facts:
    """A node, its runtimes and its criproxy."""

    system: System
    config: Config
    runtimes: Sequence[Endpoint]
    """The sockets of the runtimes, and those of images where they are others."""
    unknown: str = ""
    """Why the kernel's sockets are not known; the empty string if they are."""
    listening: set[str] = field(default_factory=set)
    """Paths of runtimes' sockets that are seen to be listened on."""
    clients: dict[str, Counter[int]] = field(default_factory=dict)
    """By the path of a runtime's socket: how many connections to it each pid holds."""
    nameless: Counter[str] = field(default_factory=Counter)
    """By the path: connections whose holder is not found."""
    closed: int = 0
    """How many processes do not let their descriptors be read."""
    criproxy: dict[str, list[int]] = field(default_factory=dict)
    """By the path of a listener: who listens there."""
    runtime_pids: set[int] = field(default_factory=set)
    """Who listens at the runtimes' sockets."""

    @property
    def kubelet(self) -> Kubelet:
        """How the kubelet is known."""
        return Kubelet(self.config.kubelet.executable, self.config.kubelet.unit)

    @property
    def criproxy_pids(self) -> set[int]:
        """Who listens at the configuration's endpoints."""
        return {pid for pids in self.criproxy.values() for pid in pids}

    @property
    def full(self) -> list[ListenerConfig]:
        """The listeners that let everything through."""
        return [each for each in self.config.listeners if each.profile == "full"]

    @property
    def advised(self) -> Endpoint:
        """Where clients are to be sent that need everything."""
        return (self.full or self.config.listeners)[0].endpoint

    def is_kubelet(self, pid: int) -> bool:
        """Tell whether a process is the node's kubelet, as the configuration knows it."""
        process = self.system.process(pid)
        return process.uid is not None and self.kubelet.fits(
            process.uid, process.executable, process.place
        )

    def looks_like_criproxy(self, pid: int) -> bool:
        """Tell whether a process calls itself criproxy. Any may."""
        words = self.system.process(pid).command
        named = any(word.rpartition("/")[2] == "criproxy" for word in words[:2])
        return "run" in words and (named or words[1:3] == ("-m", "criproxy"))


def gather(system: System, config: Config, runtimes: Sequence[Endpoint]) -> Facts:
    """Read the kernel's sockets and who holds those that matter. Never raises."""
    facts = Facts(system, config, runtimes)
    try:
        sockets = system.sockets()
    except UnavailableError as error:
        facts.unknown = str(error)
        return facts
    at_runtime = {each.path: _at(system, each.path, sockets) for each in runtimes}
    at_listener = {
        each.endpoint.path: _listening(_at(system, each.endpoint.path, sockets))
        for each in config.listeners
    }
    wanted = {each.inode for found in at_listener.values() for each in found}
    for found in at_runtime.values():
        wanted |= {each.inode for each in _listening(found)}
        wanted |= _clients(found)
    holders, facts.closed = system.holders(wanted - {0})
    for path, found in at_listener.items():
        facts.criproxy[path] = sorted(
            {pid for each in found for pid in holders.get(each.inode, [])}
        )
    for path, found in at_runtime.items():
        listening = _listening(found)
        if listening:
            facts.listening.add(path)
        facts.runtime_pids |= {pid for each in listening for pid in holders.get(each.inode, [])}
        facts.clients[path] = Counter()
        for peer in _clients(found):
            facts.clients[path].update(holders.get(peer, []))
            if peer not in holders:
                facts.nameless[path] += 1
    return facts


def _at(system: System, path: str, sockets: list[UnixSocket]) -> list[UnixSocket]:
    """Return the sockets bound at a path: it, and what was accepted on it.

    They are known by the file. The name is what was bound, perhaps by another way to the file; it
    finds connections as well that were made before the socket was bound anew.
    """
    real = os.path.realpath(system.path(path))
    names = {path, str(system.path(path)), real}
    try:
        found = os.stat(real)
        file = (found.st_dev, found.st_ino)
    except OSError:
        file = None
    return [
        each for each in sockets if each.name in names or (file is not None and each.file == file)
    ]


def _clients(sockets: list[UnixSocket]) -> set[int]:
    """Return the clients' ends of connections, those that wait to be accepted too."""
    return {inode for each in sockets for inode in (each.peer, *each.waiting) if inode}


def _listening(sockets: list[UnixSocket]) -> list[UnixSocket]:
    return [each for each in sockets if each.state == LISTEN]
