"""Conditions on the client of a call."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from criproxy.peers.peer import Peer
from criproxy.rules.spec import CallersSpec


def is_caller(callers: CallersSpec, peer: Peer) -> bool:
    """Return whether a client fulfils each condition that is given."""
    return (
        (callers.uid is None or peer.uid in callers.uid)
        and (callers.gid is None or peer.gid in callers.gid)
        and (callers.executable is None or any_glob(callers.executable, peer.executable or ""))
        and (callers.unit is None or any_glob(callers.unit, peer.unit or ""))
        and (callers.kubelet is None or callers.kubelet is peer.kubelet)
    )


def any_glob(globs: Iterable[str], text: str) -> bool:
    """Return whether one of the globs matches a string."""
    return any(fnmatchcase(text, glob) for glob in globs)
