"""Decides which calls are recorded and at which level: Kubernetes' audit policy for the CRI.

Rules are tried in order and the first match decides; a call that no rule matches is not recorded.
The rules that match a method, caller and listener are cached, since these are known when a call
begins; the remaining conditions (pod, outcome) are evaluated for each call.
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

_CACHE_SIZE: Final = 512
"""Cached combinations of method, caller and listener: some 60 methods by the few clients of a node.
Each holds the caller's command line, at most 8 KiB."""

_RANKS: Final = {level: rank for rank, level in enumerate(LEVELS)}


class Decision(NamedTuple):
    """The level at which a call is recorded, and the paths of omitted fields."""

    level: Level
    omit: tuple[str, ...] = ()


UNRECORDED: Final = Decision("None")


class Outcome(NamedTuple):
    """The result of a call; None for each value that is not known."""

    code: StatusCode | None = None
    duration: float | None = None
    """In seconds."""
    exit_code: int | None = None
    """Of the command of an ExecSync; None for other methods, too."""


def covers(level: Level, other: Level) -> bool:
    """Return whether a level records everything that another does."""
    return _RANKS[level] >= _RANKS[other]


class _Rule:
    """A compiled rule."""

    __slots__ = ("_codes", "_needs_outcome", "_spec", "decision", "is_final")

    def __init__(self, spec: AuditRuleSpec) -> None:
        self._spec = spec
        self._codes = None if spec.codes is None else {StatusCode[code] for code in spec.codes}
        self.decision = Decision(spec.level, tuple(spec.omit))
        outcome = (spec.codes, spec.exit_codes, spec.longer_than)
        self._needs_outcome = any(condition is not None for condition in outcome)
        pod = (spec.namespaces, spec.pods, spec.labels)
        self.is_final = not self._needs_outcome and all(condition is None for condition in pod)
        """Whether it has no condition beside method, caller and listener: no later rule applies."""

    def covers_call(self, method_name: MethodName, peer: Peer, listener: str) -> bool:
        spec = self._spec
        return (
            (spec.listeners is None or any_glob(spec.listeners, listener))
            and (spec.callers is None or is_caller(spec.callers, peer))
            and any(matches(pattern, method_name) for pattern in spec.methods)
        )

    def matches_call(self, pod: Pod | None, outcome: Outcome | None) -> bool:
        spec = self._spec
        return (
            (not self._needs_outcome or self._matches_outcome(outcome))
            and (spec.namespaces is None or any_glob(spec.namespaces, pod.namespace if pod else ""))
            and (spec.pods is None or any_glob(spec.pods, pod.name if pod else ""))
            and (spec.labels is None or _has_labels(pod, spec.labels))
        )

    def _matches_outcome(self, outcome: Outcome | None) -> bool:
        spec = self._spec
        if outcome is None:
            # Without this a call that may turn out to need no record would have half of one.
            return spec.level == "None"
        code, duration, exit_code = outcome
        return (
            (self._codes is None or code in self._codes)
            and (spec.exit_codes is None or exit_code in spec.exit_codes)
            and (spec.longer_than is None or (duration is not None and duration > spec.longer_than))
        )


def _has_labels(pod: Pod | None, globs: dict[str, str]) -> bool:
    labels = pod.labels if pod else {}
    return all(key in labels and any_glob((glob,), labels[key]) for key, glob in globs.items())


class AuditPolicy:
    """The compiled rules. Thread-safe."""

    DEFAULT: ClassVar[Sequence[AuditRuleSpec]] = (
        AuditRuleSpec("None", methods=["@read"], callers=CallersSpec(kubelet=True)),
        AuditRuleSpec(
            "None",
            methods=["ExecSync"],
            callers=CallersSpec(kubelet=True),
            codes=["OK"],
            exit_codes=[0],
        ),
        AuditRuleSpec("Request", methods=["@exec"]),
        AuditRuleSpec("Request", callers=CallersSpec(kubelet=False)),
        AuditRuleSpec("Metadata", methods=["@mutating"]),
        AuditRuleSpec("Metadata"),
    )
    """The policy where the configuration has none."""

    def __init__(self, specs: Sequence[AuditRuleSpec] | None = None) -> None:
        """Compile rules in their order; None: the default policy."""
        self._rules = tuple(map(_Rule, self.DEFAULT if specs is None else specs))
        self._candidates = lru_cache(_CACHE_SIZE)(self._find_candidates)

    def max_level(self, method_name: MethodName, connection: Connection) -> Level:
        """Return the highest level at which a call that begins may be recorded."""
        return self._candidates(method_name, connection.peer, connection.listener)[1]

    def decide(
        self,
        method_name: MethodName,
        connection: Connection,
        pod: Pod | None,
        outcome: Outcome | None,
    ) -> Decision:
        """Return the level at which a call is recorded at one of its stages.

        ``outcome`` is None while the call runs. Of the rules with conditions on it, those of level
        None match then, and no others: a call whose outcome decides whether it is recorded has one
        record, at its end. What is not known of an outcome meets no condition. An unknown pod has
        an empty namespace and name, and no labels.
        """
        for rule in self._candidates(method_name, connection.peer, connection.listener)[0]:
            if rule.is_final or rule.matches_call(pod, outcome):
                return rule.decision
        return UNRECORDED

    def _find_candidates(
        self, method_name: MethodName, peer: Peer, listener: str
    ) -> tuple[tuple[_Rule, ...], Level]:
        """Return the rules that may match such calls, and the highest of their levels."""
        found = []
        for rule in self._rules:
            if rule.covers_call(method_name, peer, listener):
                found.append(rule)
                if rule.is_final:
                    break
        levels: list[Level] = [rule.decision.level for rule in found]
        return tuple(found), max(levels, key=_RANKS.__getitem__, default="None")
