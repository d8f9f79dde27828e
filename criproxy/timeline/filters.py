"""Selects calls by what a user asks for. Pure."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from criproxy.cri.naming import matches
from criproxy.timeline.logged_call import LoggedCall


@dataclass(frozen=True, slots=True)
class CallFilter:
    """Conditions on a call, all of which have to hold; an empty tuple is no condition.

    ``methods`` are globs and groups as in rules, ``namespaces``, ``pods`` and ``callers`` globs, of
    which one has to match; a caller is matched by its executable's path and by its file name.
    ``codes`` are names of gRPC codes, or ``!OK`` for all others than that one. ``slower_than`` is
    in seconds.
    """

    methods: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()
    callers: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    slower_than: float = 0.0

    def selects(self, call: LoggedCall) -> bool:
        """Return whether a call meets the conditions."""
        return (
            call.duration >= self.slower_than
            and (not self.methods or any(matches(each, call.method_name) for each in self.methods))
            and _any_matches(self.namespaces, call.namespace)
            and _any_matches(self.pods, call.pod)
            and _any_matches(self.callers, call.executable, call.executable.rpartition("/")[2])
            and (not self.codes or any(_has_code(call, each) for each in self.codes))
        )


def _any_matches(patterns: tuple[str, ...], *texts: str) -> bool:
    return not patterns or any(fnmatchcase(text, each) for each in patterns for text in texts)


def _has_code(call: LoggedCall, code: str) -> bool:
    if call.running:
        return False
    return call.code != code[1:] if code.startswith("!") else call.code == code
