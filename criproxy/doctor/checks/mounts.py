"""Containers that have a socket with full rights mounted, themselves or with its directory."""

import os
from collections.abc import Iterator
from typing import Final

from criproxy.doctor.findings import Finding, Outcome
from criproxy.doctor.node.facts import Facts
from criproxy.doctor.node.mountinfo import Mount, MountLocation, parse, place_of, seen_at

NAME: Final = "mounts"


def check(facts: Facts) -> Iterator[Finding]:
    """Look at one process of each mount namespace that is not the node's."""
    own = parse(facts.system.text(os.getpid(), "mountinfo") or facts.system.text(1, "mountinfo"))
    wanted = list(_wanted(facts, own))
    # The doctor may be in a container itself: the node's tree is what its first process sees.
    roots = {place_of("/", own), place_of("/", parse(facts.system.text(1, "mountinfo"))), None}
    seen, untold = _namespaces(facts)
    found = False
    for pid in seen:
        mounts = parse(facts.system.text(pid, "mountinfo"))
        if _is_nodes(facts, pid, roots, mounts):
            continue
        for path, place, ours in wanted:
            inside = seen_at(place, mounts)
            if inside is not None:
                found = True
                yield _mounted(facts, pid, path, inside, ours)
    if untold:
        unsure = f"whether every process is without the runtime's socket: {untold} would not tell"
        yield Finding(NAME, Outcome.CANNOT_TELL, unsure, "run it as root (CAP_SYS_PTRACE)")
    elif not wanted:
        unsure = "whether a container has the runtime's socket mounted: it is not seen from here"
        yield Finding(NAME, Outcome.CANNOT_TELL, unsure, "run it on the node itself")
    elif not found:
        yield Finding(NAME, Outcome.OK, "no container has a socket with full rights mounted")


def _wanted(facts: Facts, own: list[Mount]) -> Iterator[tuple[str, MountLocation, bool]]:
    """Yield each socket with full rights: its path, where it really is, whether criproxy's."""
    for path in dict.fromkeys(each.path for each in facts.runtimes):
        yield from _placed(facts, path, own, False)
    for listener in facts.full:
        yield from _placed(facts, listener.endpoint.path, own, True)


def _placed(
    facts: Facts, path: str, own: list[Mount], ours: bool
) -> Iterator[tuple[str, MountLocation, bool]]:
    real = os.path.realpath(facts.system.path(path))
    place = place_of(real, own)
    if place is not None and os.path.lexists(real):
        yield path, place, ours


def _namespaces(facts: Facts) -> tuple[list[int], int]:
    """Return one process of each other mount namespace, and how many would not tell theirs."""
    system = facts.system
    first: dict[str, int] = {}
    untold = 0
    for pid in system.pids:
        namespace = system.link(pid, "ns/mnt")
        if namespace is not None:
            first.setdefault(namespace, pid)
        elif system.text(pid, "cmdline"):  # neither gone nor the kernel's own
            untold += 1
    for pid in (1, os.getpid()):
        first.pop(system.link(pid, "ns/mnt") or "", None)
    return list(first.values()), untold


def _is_nodes(
    facts: Facts, pid: int, roots: set[MountLocation | None], mounts: list[Mount]
) -> bool:
    """Tell whether a process sees the node's own tree, as a service with a private /tmp does.

    The runtime and criproxy pass for those: they need the socket.
    """
    if pid in facts.runtime_pids or pid in facts.criproxy_pids:
        return True
    place = facts.system.process(pid).place
    if place.container is not None or place.pod_uid is not None:
        return False
    return place_of("/", mounts) in roots


def _mounted(facts: Facts, pid: int, path: str, inside: str, ours: bool) -> Finding:
    process = facts.system.process(pid)
    what = f"{process} sees {path} at {inside}"
    scoped = next((each for each in facts.config.listeners if each.profile != "full"), None)
    instead = (
        f"mount {scoped.endpoint.path} (profile {scoped.profile}) instead"
        if scoped is not None
        else "mount the socket of a listener with profile: read-only instead"
    )
    if facts.is_kubelet(pid):
        return Finding(NAME, Outcome.OK, f"{what}: it is the kubelet")
    if ours:
        what += ", with every right of the node's root"
        return Finding(NAME, Outcome.WARN, what, instead)
    mend = f"{instead}; a read-only mount does not keep it from connecting"
    return Finding(NAME, Outcome.FAIL, f"{what}, past criproxy", mend)
