"""All rules together, compiled, and the few of them that are for a method."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from criproxy.cri.methods import METHODS
from criproxy.cri.naming import GROUPS, MethodName, by_path, matches, resolve
from criproxy.rules.cel.expressions import suggestion
from criproxy.rules.compiled.rule import Rule
from criproxy.rules.errors import RuleError
from criproxy.rules.spec import RuleSpec

_NAMED: Final = tuple(resolve(path.encode()) for path in METHODS)
_WILDCARDS: Final = frozenset("*?[")
_SERVICES: Final = frozenset({"RuntimeService", "ImageService"})


@dataclass(frozen=True, slots=True)
class MethodRules:
    """The rules that may act on the calls of one method, in order."""

    rules: tuple[Rule, ...]
    named: MethodName


class RuleSet:
    """Rules as they were loaded; it never changes.

    ``needs_pods`` tells that a rule asks which pod a call is about, ``enforcing`` that one is there
    to refuse: then no call may pass that cannot be read.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules: Final = tuple(rules)
        self.needs_pods: Final = any(rule.needs_pods for rule in self.rules)
        self.enforcing: Final = any(rule.fails and not rule.dry_run for rule in self.rules)
        self.plan = by_path(self._plan)

    def _plan(self, path: bytes) -> MethodRules | None:
        """Return the rules that may act on calls of a path; None if there are none."""
        named = resolve(path)
        rules = tuple(rule for rule in self.rules if rule.concerns(named))
        if not rules:
            return None
        return MethodRules(rules, named)


def compile_rules(specs: Sequence[RuleSpec], dry_run: bool = False) -> RuleSet:
    """Compile rules, in order; with ``dry_run`` none of them acts. Raises RuleError."""
    rules = []
    seen = set()
    for spec in specs:
        if spec.name in seen:
            raise RuleError(spec.name, ("name",), "two rules have this name")
        seen.add(spec.name)
        _check_globs(spec)
        rule = Rule(spec, METHODS.values(), dry_run)
        _check_reach(rule)
        rules.append(rule)
    return RuleSet(rules)


def _check_globs(spec: RuleSpec) -> None:
    """Refuse a method's name that none has: a misspelt rule would never act, and nobody notice."""
    for index, glob in enumerate(spec.match.methods):
        if any(matches(glob, named) for named in _NAMED):
            continue
        if glob.startswith("@"):
            raise RuleError(
                spec.name,
                ("match", "methods", index),
                f"{glob!r} is no group of methods: {', '.join(GROUPS)}",
            )
        service, _, name = glob.lstrip("/").rpartition("/")
        if service and service not in _SERVICES and not service.startswith("runtime."):
            continue
        if not _WILDCARDS.isdisjoint(glob):
            continue
        names = sorted({named.method for named in _NAMED})
        raise RuleError(
            spec.name,
            ("match", "methods", index),
            f"no method of the CRI is called {glob!r}{suggestion(name, names, or_all=False)}",
        )


def _check_reach(rule: Rule) -> None:
    """Refuse an action on what none of the rule's methods has."""
    if any(rule.concerns(named) for named in _NAMED):
        return
    fault = rule.spec.fault
    if rule.action == "rewrite_images":
        raise RuleError(rule.name, ("match", "methods"), "none of them has images to rename")
    if fault is not None and (fault.cut_after is not None or fault.drop is not None):
        raise RuleError(rule.name, ("match", "methods"), "none of them answers with a stream")
    if rule.spec.rewrite is not None and (rule.spec.rewrite.request or rule.spec.rewrite.response):
        raise RuleError(rule.name, ("match", "methods"), "none of them has messages to rewrite")
