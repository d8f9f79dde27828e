"""Checks criproxy's sockets: that they exist, answer, and admit the intended users only."""

from collections.abc import Iterator
from typing import Final

from criproxy.config.schema import ListenerConfig
from criproxy.doctor.checks.access import (
    SocketAccess,
    access_of,
    can_connect,
    groups_of,
    writable_parent,
)
from criproxy.doctor.findings import Finding, Outcome
from criproxy.doctor.node.facts import Facts
from criproxy.doctor.node.system import is_socket

NAME: Final = "listeners"

_REFUSED: Final = "PERMISSION_DENIED"
"""Counts as an answer: the profile or ``allow`` denies this process the call."""


def check(facts: Facts) -> Iterator[Finding]:
    """Check each listener of the configuration."""
    for listener in facts.config.listeners:
        try:
            problems = list(_of(facts, listener))
        except PermissionError:
            what = f"what {listener.endpoint} is like"
            problems = [Finding(NAME, Outcome.CANNOT_TELL, what, "run it as root")]
        yield from problems or [_fine(facts, listener)]


def _fine(facts: Facts, listener: ListenerConfig) -> Finding:
    access = access_of(facts.system.path(listener.endpoint.path))
    what = f"{listener.endpoint} (profile {listener.profile}, {access}) answers"
    return Finding(NAME, Outcome.OK, what)


def _of(facts: Facts, listener: ListenerConfig) -> Iterator[Finding]:
    path = facts.system.path(listener.endpoint.path)
    runtimes = [each.path for each in facts.runtimes]
    if path.is_symlink() and str(path.readlink()) in runtimes:
        what = f"{listener.endpoint} is a link to {path.readlink()}: its clients bypass criproxy"
        yield Finding(NAME, Outcome.FAIL, what, "end it with: criproxy bypass off")
        return
    access = access_of(path)
    if access is None or not is_socket(path):
        what = (
            f"{listener.endpoint} is no socket" if access else f"{listener.endpoint} is not there"
        )
        if not facts.configured and access is None:
            remedy = "name criproxy's configuration with -c, or start it"
            yield Finding(NAME, Outcome.CANNOT_TELL, what, remedy)
            return
        yield Finding(NAME, Outcome.FAIL, what, "start criproxy with this configuration")
        return
    yield from _alive(facts, listener)
    directory = writable_parent(path, facts.system.root)
    if directory is not None:
        what = f"{listener.endpoint} can be replaced by those who may write to {directory}"
        remedy = f"chown root:root {directory}; chmod go-w {directory}"
        yield Finding(NAME, Outcome.FAIL, what, remedy)
    if listener.profile == "full":
        yield from _full(facts, listener, access)
    else:
        yield from _scoped(facts, listener)


def _alive(facts: Facts, listener: ListenerConfig) -> Iterator[Finding]:
    endpoint = listener.endpoint
    others = [
        facts.system.process(pid)
        for pid in facts.criproxy.get(endpoint.path, [])
        if not facts.looks_like_criproxy(pid)
    ]
    for process in others:
        what = f"{endpoint} is listened on by {process}, which is not criproxy"
        yield Finding(NAME, Outcome.FAIL, what, "stop it, then start criproxy")
    why = None if others else facts.system.version_error(endpoint)
    if why is None or _REFUSED in why:
        return
    if "permission denied" in why:
        what = f"whether {endpoint} answers: this user may not connect"
        yield Finding(NAME, Outcome.CANNOT_TELL, what, "run it as root")
    else:
        remedy = "look at criproxy's log and whether its runtime runs"
        yield Finding(NAME, Outcome.FAIL, why, remedy)


def _full(facts: Facts, listener: ListenerConfig, access: SocketAccess) -> Iterator[Finding]:
    runtimes = [listener.runtime] if listener.runtime is not None else facts.runtimes
    for runtime in runtimes:
        of_runtime = access_of(facts.system.path(runtime.path))
        if of_runtime is not None and access.wider_than(of_runtime):
            what = f"{listener.endpoint} ({access}) lets more in than {runtime} ({of_runtime})"
            remedy = "leave out mode and owner of the listener: it takes the runtime's"
            yield Finding(NAME, Outcome.FAIL, what, remedy)
    for other in facts.config.listeners:
        scoped = access_of(facts.system.path(other.endpoint.path))
        if other.profile != "full" and scoped is not None and access.wider_than(scoped):
            what = (
                f"{listener.endpoint} (profile full, {access}) lets in whom {other.endpoint} "
                f"(profile {other.profile}, {scoped}) does not"
            )
            remedy = "the socket with more rights is to have fewer users: swap their mode and owner"
            yield Finding(NAME, Outcome.WARN, what, remedy)


def _scoped(facts: Facts, listener: ListenerConfig) -> Iterator[Finding]:
    """Report users and groups in ``allow`` that the socket's mode and owner keep out."""
    allow = listener.allow
    if allow is None:
        return
    path, root = facts.system.path(listener.endpoint.path), facts.system.root
    lacking = [
        f"uid {uid}" for uid in allow.uid or [] if not can_connect(path, uid, groups_of(uid), root)
    ]
    if allow.uid is None:
        nobody = -1
        lacking += [
            f"gid {gid}"
            for gid in allow.gid or []
            if gid and not can_connect(path, nobody, {gid}, root)
        ]
    if lacking:
        what = f"{listener.endpoint} allows {', '.join(lacking)}, but its mode and owner do not"
        remedy = 'set the listener\'s owner to ":group" of theirs and its mode to "0660"'
        yield Finding(NAME, Outcome.WARN, what, remedy)
