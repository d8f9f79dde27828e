"""Whose calls a part of the configuration is about."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from criproxy.peers.peer import Peer
from criproxy.rules.spec import CallersSpec


def is_caller(callers: CallersSpec, peer: Peer) -> bool:
    """Tell whether a client is one of those meant: it fits each list that is given."""
    return (
        (callers.uid is None or peer.uid in callers.uid)
        and (callers.gid is None or peer.gid in callers.gid)
        and (callers.executable is None or any_glob(callers.executable, peer.executable or ""))
        and (callers.unit is None or any_glob(callers.unit, peer.unit or ""))
        and (callers.kubelet is None or callers.kubelet is peer.kubelet)
    )


def any_glob(globs: Iterable[str], text: str) -> bool:
    """Tell whether a text fits one of the globs."""
    return any(fnmatchcase(text, glob) for glob in globs)
