"""The runtimes' own sockets: who may connect to them past criproxy."""

import grp
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from criproxy.doctor.checks.access import (
    SocketAccess,
    group_name,
    is_socket,
    permit_of,
    unguarded,
    user_name,
)
from criproxy.doctor.findings import Finding, Outcome
from criproxy.doctor.node.facts import Facts

NAME: Final = "sockets"

OTHERS: Final = (
    "/run/containerd/containerd.sock",
    "/run/containerd/containerd.sock.ttrpc",
    "/run/k3s/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock.ttrpc",
    "/run/k0s/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
    "/run/crio/crio.sock",
    "/run/cri-dockerd.sock",
    "/run/docker.sock",
    "/run/docker/containerd/containerd.sock",
    "/run/podman/podman.sock",
)
"""Where runtimes listen, whichever it is that this criproxy stands before."""


def check(facts: Facts) -> Iterator[Finding]:
    """Look at mode, owner and directory of the runtimes' sockets, and of others that are there."""
    looked = set()
    for runtime in facts.runtimes:
        looked.add(facts.system.path(runtime.path).resolve())
        yield _of(facts, runtime.path, "the runtime's socket")
    for path in OTHERS:
        real = facts.system.path(path).resolve()
        if real not in looked and is_socket(real):
            looked.add(real)
            yield _of(facts, path, "another runtime's socket")


def _of(facts: Facts, path: str, what: str) -> Finding:
    file = facts.system.path(path)
    try:
        permit = permit_of(file)
        directory = unguarded(file, facts.system.root)
    except PermissionError:
        mend = "run it as root"
        return Finding(NAME, Outcome.CANNOT_TELL, f"who may connect to {what} {path}", mend)
    if permit is None:
        mend = "start the runtime, or name its socket with --runtime-endpoint"
        return Finding(NAME, Outcome.CANNOT_TELL, f"{what} {path} is not there", mend)
    return judge(f"{what} {path} ({permit})", permit, directory)


def judge(what: str, permit: SocketAccess, directory: Path | None) -> Finding:
    """Say who but root may connect to a socket of this mode, or may replace it."""
    mend = "give it to root alone (chown root:root, chmod 0660), in the runtime's configuration"
    if permit.others:
        return Finding(NAME, Outcome.FAIL, f"{what} lets everybody in, past criproxy", mend)
    if directory is not None:
        mend = f"chown root:root {directory}; chmod go-w {directory}"
        what += f" can be replaced by those who may write to {directory}"
        return Finding(NAME, Outcome.FAIL, what, mend)
    if permit.user is not None:
        what += f" lets the user {user_name(permit.user)} in, past criproxy"
        return Finding(NAME, Outcome.WARN, what, mend)
    if permit.group is not None:
        what += f" lets the group {_group(permit.group)} in, past criproxy"
        return Finding(NAME, Outcome.WARN, what, mend)
    return Finding(NAME, Outcome.OK, f"{what} lets root alone in")


def _group(gid: int) -> str:
    try:
        members = grp.getgrgid(gid).gr_mem
    except KeyError:
        members = []
    return f"{group_name(gid)} ({', '.join(members)})" if members else group_name(gid)
