"""Finds processes other than criproxy that are connected to a runtime's socket."""

from collections.abc import Iterator
from typing import Final

from criproxy.doctor.findings import Finding, Outcome
from criproxy.doctor.node.facts import Facts
from criproxy.doctor.node.kubelet_config import is_supervisor, uses_criproxy
from criproxy.doctor.node.runtimes import OTHER_SOCKETS
from criproxy.doctor.node.system import Process
from criproxy.relay.endpoints import Endpoint

NAME: Final = "connections"

_NATIVE: Final = frozenset({"ctr", "nerdctl", "dockerd", "buildkitd"})
"""Clients of containerd's native API, which shares the CRI's socket."""


_SHIM: Final = "containerd-shim"
"""The beginning of the names of containerd's shims, which report to it over ttrpc."""


def check(facts: Facts) -> Iterator[Finding]:
    """Report each process that holds connections to a runtime's socket."""
    if facts.sockets_error:
        yield Finding(
            NAME,
            Outcome.CANNOT_TELL,
            f"who is connected to the runtime: {facts.sockets_error}",
            "run it on the node itself, with a kernel that has CONFIG_UNIX_DIAG",
        )
        return
    for runtime in facts.runtimes:
        yield from _at(facts, runtime)
    for path, clients in facts.other_clients.items():
        for pid, count in sorted(clients.items()):
            process = facts.system.process(pid)
            if pid not in facts.runtime_pids and not _is_of_runtime(process):
                yield _of_other(process, path, count)


def _is_of_runtime(process: Process) -> bool:
    """Return whether a process is a shim, or a containerd of this node: Docker's has shims, too."""
    is_own = process.uid == 0 and process.cgroup.container is None
    return is_own and (process.name == "containerd" or process.name.startswith(_SHIM))


def _of_other(process: Process, path: str, count: int) -> Finding:
    what = OTHER_SOCKETS.get(path, "the sockets of containerd's shims")
    held = f"{process} holds {_connections(count)} to {what} ({path}), which criproxy does not see"
    remedy = "if it is not part of the runtime, stop it, and restrict who is root"
    if path.endswith("/nri.sock"):
        remedy = "if this NRI plugin is not wanted, remove it: it may change every container"
    return Finding(NAME, Outcome.WARN, held, remedy)


def _at(facts: Facts, runtime: Endpoint) -> Iterator[Finding]:
    if runtime.path not in facts.listening and not facts.clients[runtime.path]:
        yield Finding(
            NAME,
            Outcome.CANNOT_TELL,
            f"who is connected to {runtime}: nobody in this network namespace listens there",
            "start the runtime, or run it in the node's own network namespace (hostNetwork)",
        )
        return
    others = [
        (pid, count)
        for pid, count in sorted(facts.clients[runtime.path].items())
        if pid not in facts.criproxy_pids and pid not in facts.runtime_pids
    ]
    for pid, count in others:
        yield _bypassing_client(facts, runtime, pid, count)
    unidentified = facts.unidentified[runtime.path]
    if unidentified:
        yield _unidentified(facts, runtime, unidentified)
    if not others and not unidentified:
        yield Finding(NAME, Outcome.OK, f"nobody but criproxy is connected to {runtime} now")


def _bypassing_client(facts: Facts, runtime: Endpoint, pid: int, count: int) -> Finding:
    process = facts.system.process(pid)
    held = f"holds {_connections(count)} to {runtime}"
    if facts.is_kubelet(pid):
        pointed = uses_criproxy(facts, pid)
        if is_supervisor(process):
            what = f"{process} {held}: it manages the runtime"
            return Finding(NAME, Outcome.OK, what)
        if pointed is None:
            what = f"whether the kubelet ({process}), which {held}, uses it past criproxy"
            return Finding(NAME, Outcome.CANNOT_TELL, what, "see kubelet, below")
        if pointed:
            what = f"the kubelet ({process}) {held}: cAdvisor's, for the statistics of containers"
            return Finding(NAME, Outcome.OK, what)
        what = f"the kubelet ({process}) {held}, past criproxy"
        return Finding(NAME, Outcome.FAIL, what, "see kubelet, below")
    what = f"{process} {held}"
    if facts.looks_like_criproxy(pid):
        remedy = (
            "if it is a criproxy, name its configuration with -c: it has none of these listeners"
        )
        return Finding(NAME, Outcome.WARN, what, remedy)
    return Finding(NAME, _severity(process), what, _remedy(facts, process))


def _severity(process: Process) -> Outcome:
    return Outcome.WARN if _is_tool(process) else Outcome.FAIL


def _is_tool(process: Process) -> bool:
    """Return whether it is a command that an administrator runs by hand."""
    return (
        process.uid == 0
        and process.cgroup.container is None
        and process.name in _NATIVE | {"crictl"}
    )


def _remedy(facts: Facts, process: Process) -> str:
    if process.name in _NATIVE:
        return (
            f"{process.name} speaks containerd's native API, which criproxy does not read; "
            "restrict who is root, and use crictl through criproxy"
        )
    if process.name == "crictl":
        return f'write "runtime-endpoint: {facts.advised}" into /etc/crictl.yaml'
    scoped = next((each for each in facts.config.listeners if each.profile != "full"), None)
    if scoped is not None:
        return f"point it at {scoped.endpoint} (profile {scoped.profile}), or at {facts.advised}"
    return f"point it at {facts.advised}, or give it a listener of its own with profile: read-only"


def _unidentified(facts: Facts, runtime: Endpoint, count: int) -> Finding:
    what = f"who holds {_connections(count)} to {runtime}"
    if facts.unreadable:
        what += f": {facts.unreadable} of the processes do not let their descriptors be seen"
        return Finding(NAME, Outcome.CANNOT_TELL, what, "run it as root (CAP_SYS_PTRACE)")
    what += ": no process that is seen from here does, or it has hung up meanwhile"
    return Finding(NAME, Outcome.CANNOT_TELL, what, "run it in the node's PID namespace (hostPID)")


def _connections(count: int) -> str:
    return "1 connection" if count == 1 else f"{count} connections"
