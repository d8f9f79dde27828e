"""Checks the running criproxy: that it can identify callers and that its audit log is private."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from criproxy.doctor.checks.access import access_of, writable_parent
from criproxy.doctor.findings import Finding, Outcome
from criproxy.doctor.node.facts import Facts
from criproxy.doctor.node.mountinfo import mount_of, parse
from criproxy.doctor.node.system import CAP_SYS_PTRACE

NAME: Final = "criproxy"

_READ: Final = 0o4
_ANYWHERE: Final = ("0.0.0.0", "::", "*")  # noqa: S104 - what is warned of


def check(facts: Facts) -> Iterator[Finding]:
    """Check the running criproxy, its audit log and its HTTP address."""
    if facts.criproxy_pids:
        found = [each for pid in sorted(facts.criproxy_pids) for each in _process(facts, pid)]
        fine = [each for each in found if each.outcome is Outcome.OK]
        yield from fine[:1]  # one line for the processes that are as they should be
        yield from (each for each in found if each.outcome is not Outcome.OK)
    else:
        what = "what criproxy runs as: nobody is seen to listen at its endpoints"
        remedy = "start it, name its configuration with -c, or run this as root"
        yield Finding(NAME, Outcome.CANNOT_TELL, what, remedy)
    yield from _audit(facts)
    yield _metrics(facts)


def _process(facts: Facts, pid: int) -> Iterator[Finding]:
    status = facts.system.status(pid)
    uid = facts.system.process(pid).uid
    if not status or uid is None:
        yield Finding(NAME, Outcome.CANNOT_TELL, f"what pid {pid} runs as", "run it as root")
        return
    who = f"criproxy (pid {pid}, uid {uid})"
    problems = list(_caller_lookup_problems(facts, pid, who, int(status.get("CapEff", "0"), 16)))
    yield from problems or [Finding(NAME, Outcome.OK, f"{who} can tell who its callers are")]


def _caller_lookup_problems(
    facts: Facts, pid: int, who: str, capabilities: int
) -> Iterator[Finding]:
    """Yield what keeps a criproxy process from reading its callers' /proc."""
    if not capabilities >> CAP_SYS_PTRACE & 1:
        what = f"{who} lacks CAP_SYS_PTRACE: it does not learn which executables its callers are"
        yield Finding(NAME, Outcome.WARN, what, "run it as root, or give it that capability")
        proc = mount_of("/proc", parse(facts.system.text(pid, "mountinfo")))
        options = dict(
            each.partition("=")[::2] for each in (proc.options.split(",") if proc else ())
        )
        if options.get("hidepid", "0") not in ("0", "off"):
            what = f"{who} sees a /proc with hidepid={options['hidepid']}: callers are numbers only"
            yield Finding(
                NAME, Outcome.WARN, what, "remount /proc with hidepid=0, or run it as root"
            )
    own = facts.system.link(pid, "ns/pid")
    others = {facts.system.link(each, "ns/pid") for each in (1, *facts.runtime_pids)} - {None}
    if own is None or not others:
        what = f"whether {who} is in its callers' PID namespace"
        yield Finding(NAME, Outcome.CANNOT_TELL, what, "run it as root (CAP_SYS_PTRACE)")
    elif others - {own}:
        what = f"{who} is in a PID namespace of its own: callers outside have pid 0 and no name"
        yield Finding(NAME, Outcome.WARN, what, "run it in the node's (hostPID: true)")


def _audit(facts: Facts) -> Iterator[Finding]:
    audit = facts.config.audit
    if audit is None:
        what = "there is no audit log: who called is in the call log alone"
        remedy = "add: audit: {sinks: [{file: {path: /var/log/criproxy/audit.jsonl}}]}"
        yield Finding(NAME, Outcome.WARN, what, remedy)
        return
    files = [sink.file.path for sink in audit.sinks if sink.file is not None]
    if not files:
        yield Finding(NAME, Outcome.OK, "the audit log is on, and leaves the node's disk alone")
    for path in files:
        try:
            yield from _audit_file(facts, path)
        except PermissionError:
            what = f"who may read the audit log {path}"
            yield Finding(NAME, Outcome.CANNOT_TELL, what, "run it as root")


def _audit_file(facts: Facts, path: str) -> Iterator[Finding]:
    file = facts.system.path(path)
    access = access_of(file)
    if access is None:
        what = f"the audit log {path} is not there"
        if facts.criproxy_pids:
            remedy = "restart criproxy with this configuration, and look at its log"
            yield Finding(NAME, Outcome.FAIL, what, remedy)
        else:
            yield Finding(NAME, Outcome.CANNOT_TELL, what, "start criproxy")
        return
    problems = []
    for each in _with_rotated(file):
        found = access_of(each)
        if found is not None and found.mode & _READ:
            what = f"everybody may read the audit log {each} ({found})"
            problems.append(Finding(NAME, Outcome.FAIL, what, f"chmod o-rwx {each}"))
        elif found is not None and (found.others or found.group is not None):
            what = f"others than root may write to the audit log {each} ({found})"
            problems.append(Finding(NAME, Outcome.FAIL, what, f"chmod go-w {each}"))
    directory = writable_parent(file, facts.system.root)
    if directory is not None:
        what = f"the audit log {path} can be replaced by those who may write to {directory}"
        remedy = f"chown root:root {directory}; chmod go-w {directory}"
        problems.append(Finding(NAME, Outcome.FAIL, what, remedy))
    yield from problems or [Finding(NAME, Outcome.OK, f"the audit log {path} ({access}) is on")]


def _with_rotated(file: Path) -> list[Path]:
    """Return a log and the files beside it whose names begin with its stem."""
    return sorted(
        each for each in file.parent.iterdir() if each.name.startswith(file.stem) and each.is_file()
    )


def _metrics(facts: Facts) -> Finding:
    address = facts.config.metrics.address
    if address is None:
        return Finding(NAME, Outcome.OK, "metrics and pages are not served")
    host, port = address
    shown = f"{f'[{host}]' if ':' in host else host}:{port}"
    if host in _ANYWHERE:
        what = f"metrics and pages are served to every network ({shown})"
        remedy = 'set metrics.address to "127.0.0.1:9440", or to the address of the node\'s network'
        return Finding(NAME, Outcome.WARN, what, remedy)
    return Finding(NAME, Outcome.OK, f"metrics and pages are served at {shown}")
