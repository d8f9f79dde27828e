"""Finds containers in which a socket with full rights, or its directory, is mounted."""

import os
from collections.abc import Iterator
from typing import Final

from criproxy.doctor.findings import Finding, Outcome
from criproxy.doctor.node.facts import Facts
from criproxy.doctor.node.mountinfo import Mount, MountLocation, locate, parse, visible_path

NAME: Final = "mounts"


def check(facts: Facts) -> Iterator[Finding]:
    """Check one process of each mount namespace other than the node's."""
    own = parse(facts.system.text(os.getpid(), "mountinfo") or facts.system.text(1, "mountinfo"))
    wanted = list(_wanted(facts, own))
    # The doctor may run in a container: the node's tree is that of the first process.
    roots = {locate("/", own), locate("/", parse(facts.system.text(1, "mountinfo"))), None}
    seen, unreadable = _namespaces(facts)
    found = False
    for pid in seen:
        mounts = parse(facts.system.text(pid, "mountinfo"))
        if _sees_node_tree(facts, pid, roots, mounts):
            continue
        for path, location, is_listener in wanted:
            inside = visible_path(location, mounts)
            if inside is not None:
                found = True
                yield _mounted(facts, pid, path, inside, is_listener)
    if unreadable:
        unsure = (
            f"whether every process is without the runtime's socket: {unreadable} would not tell"
        )
        yield Finding(NAME, Outcome.CANNOT_TELL, unsure, "run it as root (CAP_SYS_PTRACE)")
    elif not wanted:
        unsure = "whether a container has the runtime's socket mounted: it is not seen from here"
        yield Finding(NAME, Outcome.CANNOT_TELL, unsure, "run it on the node itself")
    elif not found:
        yield Finding(NAME, Outcome.OK, "no container has a socket with full rights mounted")


def _wanted(facts: Facts, own: list[Mount]) -> Iterator[tuple[str, MountLocation, bool]]:
    """Yield each socket with full rights: path, location, and whether it is a listener's."""
    for path in dict.fromkeys(each.path for each in facts.runtimes):
        yield from _located(facts, path, own, False)
    for listener in facts.full:
        yield from _located(facts, listener.endpoint.path, own, True)


def _located(
    facts: Facts, path: str, own: list[Mount], is_listener: bool
) -> Iterator[tuple[str, MountLocation, bool]]:
    real = os.path.realpath(facts.system.path(path))
    location = locate(real, own)
    if location is not None and os.path.lexists(real):
        yield path, location, is_listener


def _namespaces(facts: Facts) -> tuple[list[int], int]:
    """Return one pid of each other mount namespace, and how many processes are unreadable."""
    system = facts.system
    first: dict[str, int] = {}
    unreadable = 0
    for pid in system.pids:
        namespace = system.link(pid, "ns/mnt")
        if namespace is not None:
            first.setdefault(namespace, pid)
        elif system.text(pid, "cmdline"):  # neither ended nor a kernel thread
            unreadable += 1
    for pid in (1, os.getpid()):
        first.pop(system.link(pid, "ns/mnt") or "", None)
    return list(first.values()), unreadable


def _sees_node_tree(
    facts: Facts, pid: int, roots: set[MountLocation | None], mounts: list[Mount]
) -> bool:
    """Return whether a process sees the node's own tree, as a service with a private /tmp does.

    The runtime and criproxy count as such: they need the socket.
    """
    if pid in facts.runtime_pids or pid in facts.criproxy_pids:
        return True
    location = facts.system.process(pid).cgroup
    if location.container is not None or location.pod_uid is not None:
        return False
    return locate("/", mounts) in roots


def _mounted(facts: Facts, pid: int, path: str, inside: str, is_listener: bool) -> Finding:
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
    if is_listener:
        what += ", with every right of the node's root"
        return Finding(NAME, Outcome.WARN, what, instead)
    remedy = f"{instead}; a read-only mount does not keep it from connecting"
    return Finding(NAME, Outcome.FAIL, f"{what}, past criproxy", remedy)
