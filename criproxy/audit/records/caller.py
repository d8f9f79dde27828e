"""Encodes the caller of a record."""

from functools import lru_cache
from typing import Any, Final

from criproxy.audit.records.command_redaction import redact_command
from criproxy.peers.peer import Peer
from criproxy.rules.pod_cache import PodCache

_CACHE_SIZE: Final = 256
"""Cached callers: a node has few clients with many connections."""


class CallerEncoder:
    """Encodes clients and the containers in which they run."""

    def __init__(self, pod_cache: PodCache) -> None:
        self._pod_cache = pod_cache
        self._describe = lru_cache(_CACHE_SIZE)(_describe)

    def describe(self, peer: Peer) -> dict[str, Any]:
        """Return a record's field ``caller``, which must not be changed."""
        caller = self._describe(peer)
        if peer.container is None and peer.pod_uid is None:
            return caller
        return {**caller, "container": self._container_of(peer)}

    def _container_of(self, peer: Peer) -> dict[str, str]:
        pod, container = self._pod_cache.container(peer.container or "")
        fields = {
            "id": peer.container,
            "name": container.name if container else "",
            "podNamespace": pod.namespace if pod else "",
            "podName": pod.name if pod else "",
            "podUID": peer.pod_uid or (pod.uid if pod else ""),
        }
        return {key: value for key, value in fields.items() if value}


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
