"""Checks who may connect to the runtimes' sockets and so bypass criproxy."""

import grp
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from criproxy.doctor.checks.access import (
    SocketAccess,
    access_of,
    group_name,
    user_name,
    writable_parent,
)
from criproxy.doctor.findings import Finding, Outcome
from criproxy.doctor.node.facts import Facts
from criproxy.doctor.node.runtimes import attach_sockets, other_sockets, shim_sockets
from criproxy.doctor.node.system import System, is_socket
from criproxy.relay.endpoints import ROOTLESS, ROOTLESS_SOCKETS, WELL_KNOWN

NAME: Final = "sockets"

OTHERS: Final = (
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/k0s/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
    "/run/crio/crio.sock",
    "/run/cri-dockerd.sock",
    "/run/docker.sock",
    "/run/docker/containerd/containerd.sock",
    "/run/podman/podman.sock",
)
"""Default sockets of known runtimes, checked beside the configured ones."""


def check(facts: Facts) -> Iterator[Finding]:
    """Check mode, owner and directory of the runtimes' sockets and of other existing ones."""
    if not facts.runtimes:
        what = f"there is no runtime's socket: not at {', '.join(WELL_KNOWN)}"
        remedy = "start the runtime, or name its socket with --runtime-endpoint"
        yield Finding(NAME, Outcome.CANNOT_TELL, what, remedy)
    looked = set()
    for runtime in facts.runtimes:
        looked.add(facts.system.path(runtime.path).resolve())
        yield _of(facts, runtime.path, "the runtime's socket")
    for path in OTHERS:
        real = facts.system.path(path).resolve()
        if real not in looked and is_socket(real):
            looked.add(real)
            yield _of(facts, path, "another runtime's socket")
    for path, what in other_sockets(facts.system):
        yield _of(facts, path, what)
    yield from _of_many(facts, shim_sockets, "a shim's socket", "shims' sockets")
    yield from _of_many(
        facts, attach_sockets, "a container's streams", "sockets of CRI-O's streams"
    )
    yield from _rootless(facts)


def _of_many(
    facts: Facts, paths: Callable[[System], list[str]], what: str, all_of_them: str
) -> Iterator[Finding]:
    """Report sockets that others than root may use, and how many root alone may."""
    try:
        findings = [_of(facts, path, what) for path in paths(facts.system)]
    except OSError:
        unsure = f"who may connect to the {all_of_them}"
        findings = [Finding(NAME, Outcome.CANNOT_TELL, unsure, "run it as root")]
    closed = sum(each.outcome is Outcome.OK for each in findings)
    yield from (each for each in findings if each.outcome is not Outcome.OK)
    if closed:
        yield Finding(NAME, Outcome.OK, f"{closed} of the {all_of_them} let root alone in")


def _rootless(facts: Facts) -> Iterator[Finding]:
    """Report the sockets of rootless runtimes: their users manage their own containers."""
    for pattern in ROOTLESS_SOCKETS:
        for path in sorted(facts.system.path(ROOTLESS).glob(pattern)):
            if is_socket(path):
                shown = f"/{path.relative_to(facts.system.root)}"
                what = (
                    f"a rootless runtime's socket {shown}: criproxy is not in front of it, and "
                    "it is the user's"
                )
                yield Finding(NAME, Outcome.OK, what)


def _of(facts: Facts, path: str, what: str) -> Finding:
    file = facts.system.path(path)
    try:
        access = access_of(file)
        directory = writable_parent(file, facts.system.root)
    except PermissionError:
        remedy = "run it as root"
        return Finding(NAME, Outcome.CANNOT_TELL, f"who may connect to {what} {path}", remedy)
    if access is None:
        remedy = "start the runtime, or name its socket with --runtime-endpoint"
        return Finding(NAME, Outcome.CANNOT_TELL, f"{what} {path} is not there", remedy)
    return access_finding(f"{what} {path} ({access})", access, directory)


def access_finding(what: str, access: SocketAccess, directory: Path | None) -> Finding:
    """Return the finding about who except root may connect to a socket, or replace it."""
    remedy = "give it to root alone (chown root:root, chmod 0660), in the runtime's configuration"
    if access.others:
        return Finding(NAME, Outcome.FAIL, f"{what} lets everybody in, past criproxy", remedy)
    if directory is not None:
        remedy = f"chown root:root {directory}; chmod go-w {directory}"
        what += f" can be replaced by those who may write to {directory}"
        return Finding(NAME, Outcome.FAIL, what, remedy)
    if access.user is not None:
        what += f" lets the user {user_name(access.user)} in, past criproxy"
        return Finding(NAME, Outcome.WARN, what, remedy)
    if access.group is not None:
        what += f" lets the group {_group(access.group)} in, past criproxy"
        return Finding(NAME, Outcome.WARN, what, remedy)
    return Finding(NAME, Outcome.OK, f"{what} lets root alone in")


def _group(gid: int) -> str:
    try:
        members = grp.getgrgid(gid).gr_mem
    except KeyError:
        members = []
    return f"{group_name(gid)} ({', '.join(members)})" if members else group_name(gid)
