"""What records say of a client."""

from functools import lru_cache
from typing import Any, Final

from criproxy.audit.records.command_redaction import redact_command
from criproxy.peers.peer import Peer
from criproxy.rules.pod_cache import PodCache

_REMEMBERED: Final = 256
"""Clients whose description is remembered; a node has a few, whose connections are many."""


class CallerEncoder:
    """Describes clients, with the containers that they run in."""

    def __init__(self, memory: PodCache) -> None:
        self._memory = memory
        self._describe = lru_cache(_REMEMBERED)(_describe)

    def describe(self, peer: Peer) -> dict[str, Any]:
        """Describe a client. What is returned is not to be changed."""
        caller = self._describe(peer)
        if peer.container is None and peer.pod_uid is None:
            return caller
        return {**caller, "container": self._container_of(peer)}

    def _container_of(self, peer: Peer) -> dict[str, str]:
        pod, container = self._memory.container(peer.container or "")
        told = {
            "id": peer.container,
            "name": container.name if container else "",
            "podNamespace": pod.namespace if pod else "",
            "podName": pod.name if pod else "",
            "podUID": peer.pod_uid or (pod.uid if pod else ""),
        }
        return {key: value for key, value in told.items() if value}


def _describe(peer: Peer) -> dict[str, Any]:
    caller: dict[str, Any] = {
        "pid": peer.pid,
        "uid": peer.uid,
        "gid": peer.gid,
        "executable": peer.executable,
        "kubelet": peer.kubelet,
    }
    if peer.command:
        caller["command"] = redact_command(peer.command)
    if peer.unit is not None:
        caller["unit"] = peer.unit
    return caller
