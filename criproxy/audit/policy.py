"""Which calls are recorded, and how much of them: the API server's audit policy, for the CRI.

Rules are tried in order and the first that fits decides; a call that none fits is not recorded.
What is known when a call begins (method, caller, listener) rules most of them out for good, and is
remembered; what is left asks for the pod, the code and the duration.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar, Final, NamedTuple

from criproxy.audit.spec import LEVELS, AuditRuleSpec, Level
from criproxy.cri.naming import MethodName, matches
from criproxy.peers.peer import Connection, Peer
from criproxy.rules.callers import any_glob, is_caller
from criproxy.rules.facts import Pod
from criproxy.rules.spec import CallersSpec
from criproxy.wire.grpc import StatusCode

_REMEMBERED: Final = 512
"""Methods by callers whose rules are remembered: some 60 by the few clients of a node. A caller's
command line is in memory with it, 8 KiB at most."""

_RANKS: Final = {level: rank for rank, level in enumerate(LEVELS)}


class Decision(NamedTuple):
    """What is recorded of a call, and which fields the record does without."""

    level: Level
    omit: tuple[str, ...] = ()


UNRECORDED: Final = Decision("None")


def covers(level: Level, other: Level) -> bool:
    """Tell whether a level records all that another does."""
    return _RANKS[level] >= _RANKS[other]


class _Rule:
    """A rule, for calls that fit its methods, callers and listeners."""

    __slots__ = ("_codes", "_spec", "decision", "is_final")

    def __init__(self, spec: AuditRuleSpec) -> None:
        self._spec = spec
        self._codes = None if spec.codes is None else {StatusCode[code] for code in spec.codes}
        self.decision = Decision(spec.level, tuple(spec.omit))
        conditions = (spec.namespaces, spec.pods, spec.labels, spec.codes, spec.longer_than)
        self.is_final = all(condition is None for condition in conditions)
        """Whether it asks for nothing else, so that no rule behind it is ever tried."""

    def is_for(self, named: MethodName, peer: Peer, listener: str) -> bool:
        spec = self._spec
        return (
            (spec.listeners is None or any_glob(spec.listeners, listener))
            and (spec.callers is None or is_caller(spec.callers, peer))
            and any(matches(pattern, named) for pattern in spec.methods)
        )

    def fits(self, pod: Pod | None, code: StatusCode | None, duration: float | None) -> bool:
        spec = self._spec
        return (
            (self._codes is None or code in self._codes)
            and (spec.longer_than is None or (duration is not None and duration > spec.longer_than))
            and (spec.namespaces is None or any_glob(spec.namespaces, pod.namespace if pod else ""))
            and (spec.pods is None or any_glob(spec.pods, pod.name if pod else ""))
            and (spec.labels is None or _has_labels(pod, spec.labels))
        )


def _has_labels(pod: Pod | None, globs: dict[str, str]) -> bool:
    labels = pod.labels if pod else {}
    return all(key in labels and any_glob((glob,), labels[key]) for key, glob in globs.items())


class AuditPolicy:
    """The rules, compiled. May be asked from any thread."""

    DEFAULT: ClassVar[Sequence[AuditRuleSpec]] = (
        AuditRuleSpec("None", methods=["@read"], callers=CallersSpec(kubelet=True)),
        AuditRuleSpec("Request", methods=["@exec"]),
        AuditRuleSpec("Request", callers=CallersSpec(kubelet=False)),
        AuditRuleSpec("Metadata", methods=["@mutating"]),
        AuditRuleSpec("Metadata"),
    )
    """What holds where the configuration has no policy."""

    def __init__(self, specs: Sequence[AuditRuleSpec] | None = None) -> None:
        """``specs`` are the rules in their order; None: the default policy."""
        self._rules = tuple(map(_Rule, self.DEFAULT if specs is None else specs))
        self._candidates = lru_cache(_REMEMBERED)(self._find_candidates)

    def ceiling(self, named: MethodName, connection: Connection) -> Level:
        """Return the highest level that a call may be recorded at, as far as is known when it
        begins."""
        return self._candidates(named, connection.peer, connection.listener)[1]

    def decide(
        self,
        named: MethodName,
        connection: Connection,
        pod: Pod | None,
        code: StatusCode | None,
        duration: float | None,
    ) -> Decision:
        """Decide about a call at one of its stages.

        ``code`` and ``duration`` (seconds) are None while they are not known; then rules that ask
        for them do not fit. A pod that is not known has the empty string for its namespace and
        name, and no labels.
        """
        for rule in self._candidates(named, connection.peer, connection.listener)[0]:
            if rule.is_final or rule.fits(pod, code, duration):
                return rule.decision
        return UNRECORDED

    def _find_candidates(
        self, named: MethodName, peer: Peer, listener: str
    ) -> tuple[tuple[_Rule, ...], Level]:
        """Return the rules that may decide about such calls, and the highest level of them."""
        found = []
        for rule in self._rules:
            if rule.is_for(named, peer, listener):
                found.append(rule)
                if rule.is_final:
                    break
        levels: list[Level] = [rule.decision.level for rule in found]
        return tuple(found), max(levels, key=_RANKS.__getitem__, default="None")
