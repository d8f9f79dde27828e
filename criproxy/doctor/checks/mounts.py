"""Finds containers in which a socket with full rights, or its directory, is mounted."""

import os
from collections.abc import Iterator
from typing import Final

from criproxy.doctor.findings import Finding, Outcome
from criproxy.doctor.node.facts import Facts
from criproxy.doctor.node.mountinfo import (
    Mount,
    MountLocation,
    is_removed,
    locate,
    parse,
    visible_path,
)
from criproxy.doctor.node.runtimes import SHIMS, other_sockets

NAME: Final = "mounts"


def check(facts: Facts) -> Iterator[Finding]:
    """Check one process of each mount namespace other than the node's."""
    own = parse(facts.system.text(os.getpid(), "mountinfo") or facts.system.text(1, "mountinfo"))
    wanted = list(_wanted(facts, own))
    further = list(_further_wanted(facts, own))
    scoped = [
        (each.endpoint.path, location)
        for each in facts.config.listeners
        if each.profile != "full"
        and (location := locate(_real(facts, each.endpoint.path), own)) is not None
    ]
    # The doctor may run in a container: the node's tree is that of the first process.
    roots = {locate("/", own), locate("/", parse(facts.system.text(1, "mountinfo"))), None}
    seen, unreadable = _namespaces(facts)
    found = False
    for pid in seen:
        mounts = parse(facts.system.text(pid, "mountinfo"))
        if _sees_node_tree(facts, pid, roots, mounts):
            continue
        findings = [
            *_with_full_rights(facts, pid, wanted, mounts),
            *_further(facts, pid, further, mounts),
            *_mounted_files(facts, pid, scoped, mounts),
        ]
        found = found or bool(findings)
        yield from findings
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


def _further_wanted(facts: Facts, own: list[Mount]) -> Iterator[tuple[str, MountLocation]]:
    """Yield the runtimes' further sockets, and the directory of the shims' sockets."""
    for path in (*(path for path, _ in other_sockets(facts.system)), SHIMS):
        for _, location, _ in _located(facts, path, own, False):
            yield path, location


def _located(
    facts: Facts, path: str, own: list[Mount], is_listener: bool
) -> Iterator[tuple[str, MountLocation, bool]]:
    real = _real(facts, path)
    location = locate(real, own)
    if location is not None and os.path.lexists(real):
        yield path, location, is_listener


def _real(facts: Facts, path: str) -> str:
    return os.path.realpath(facts.system.path(path))


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


def _with_full_rights(
    facts: Facts, pid: int, wanted: list[tuple[str, MountLocation, bool]], mounts: list[Mount]
) -> Iterator[Finding]:
    for path, location, is_listener in wanted:
        inside = visible_path(location, mounts)
        if inside is not None:
            yield _mounted(facts, pid, path, inside, is_listener)


def _mounted(facts: Facts, pid: int, path: str, inside: str, is_listener: bool) -> Finding:
    process = facts.system.process(pid)
    what = f"{process} sees {path} at {inside}"
    if facts.is_kubelet(pid):
        return Finding(NAME, Outcome.OK, f"{what}: it is the kubelet")
    if is_listener:
        what += ", with every right of the node's root"
        return Finding(NAME, Outcome.WARN, what, _instead(facts))
    remedy = f"{_instead(facts)}; a read-only mount does not keep it from connecting"
    return Finding(NAME, Outcome.FAIL, f"{what}, past criproxy", remedy)


def _further(
    facts: Facts, pid: int, further: list[tuple[str, MountLocation]], mounts: list[Mount]
) -> Iterator[Finding]:
    """Report in one finding which further sockets of runtimes a process sees."""
    seen = [
        f"{path} at {inside}"
        for path, location in further
        if (inside := visible_path(location, mounts)) is not None
    ]
    if seen and not facts.is_kubelet(pid):
        what = f"{facts.system.process(pid)} sees {', '.join(seen)}, past criproxy"
        remedy = "leave the mount out, unless it is an NRI plugin or part of the runtime"
        yield Finding(NAME, Outcome.WARN, what, remedy)


def _mounted_files(
    facts: Facts, pid: int, scoped: list[tuple[str, MountLocation]], mounts: list[Mount]
) -> Iterator[Finding]:
    """Report mounts of a scoped socket's file: after a restart of criproxy they lead nowhere."""
    for path, location in scoped:
        for mount in mounts:
            removed = is_removed(mount, location)
            if removed or MountLocation(mount.device, mount.root) == location:
                what = f"{facts.system.process(pid)} has the file {path} mounted at {mount.point}"
                what += (
                    ": it is a removed one, which nobody answers"
                    if removed
                    else ": it leads nowhere once criproxy has been restarted"
                )
                yield Finding(NAME, Outcome.WARN, what, _instead(facts))


def _instead(facts: Facts) -> str:
    """Advise a mount that has few rights and outlasts a restart of criproxy."""
    full = {os.path.dirname(each.endpoint.path) for each in facts.full}
    scoped = [each for each in facts.config.listeners if each.profile != "full"]
    apart = [each for each in scoped if os.path.dirname(each.endpoint.path) not in full]
    lasting = "not the socket, whose file is another one after a restart"
    if apart:
        directory = os.path.dirname(apart[0].endpoint.path)
        return f"mount the directory {directory} (profile {apart[0].profile}) instead, {lasting}"
    if scoped:
        endpoint = scoped[0].endpoint
        return (
            f"give {endpoint} (profile {scoped[0].profile}) a directory of its own, without the "
            f"socket with full rights, and mount that directory instead, {lasting}"
        )
    return (
        "give it a listener with profile: read-only in a directory of its own, and mount that "
        f"directory instead, {lasting}"
    )
