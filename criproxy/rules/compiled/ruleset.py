"""All compiled rules, and the selection of those that may apply to a method."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from criproxy.cri.methods import METHODS
from criproxy.cri.naming import GROUPS, MethodName, cached_by_path, matches, resolve
from criproxy.rules.errors import RuleError
from criproxy.rules.spec import RuleSpec

if TYPE_CHECKING:  # importing expressions costs memory that is not paid for without rules
    from criproxy.rules.compiled.rule import Rule

_CRI_METHODS: Final = tuple(resolve(path.encode()) for path in METHODS)
_WILDCARDS: Final = frozenset("*?[")
_SERVICES: Final = frozenset({"RuntimeService", "ImageService"})


@dataclass(frozen=True, slots=True)
class MethodRules:
    """The rules that may apply to the calls of one method, in order."""

    rules: "tuple[Rule, ...]"
    method_name: MethodName


class RuleSet:
    """An immutable set of compiled rules.

    ``needs_pods`` is true if a rule needs a call's pod; ``enforcing`` is true if a rule fails
    closed: then no call may pass that cannot be parsed.
    """

    def __init__(self, rules: "Sequence[Rule]") -> None:
        self.rules: Final = tuple(rules)
        self.needs_pods: Final = any(rule.needs_pods for rule in self.rules)
        self.enforcing: Final = any(rule.fails_closed and not rule.dry_run for rule in self.rules)
        self.rules_for = cached_by_path(self._rules_for)

    def _rules_for(self, path: bytes) -> MethodRules | None:
        """Return the rules that may apply to calls of a ``:path``, None if there are none."""
        method = resolve(path)
        rules = tuple(rule for rule in self.rules if rule.may_apply_to(method))
        return MethodRules(rules, method) if rules else None


def compile_rules(specs: Sequence[RuleSpec], dry_run: bool = False) -> RuleSet:
    """Compile rules, in order; with ``dry_run``, none of them has an effect. Raises RuleError."""
    from criproxy.rules.compiled.rule import Rule

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
    """Raise RuleError for a misspelt method name, with which the rule would never apply."""
    for index, glob in enumerate(spec.match.methods):
        if any(matches(glob, method) for method in _CRI_METHODS):
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
        from criproxy.rules.cel.expressions import suggestion

        names = sorted({method.method for method in _CRI_METHODS})
        raise RuleError(
            spec.name,
            ("match", "methods", index),
            f"no method of the CRI is called {glob!r}{suggestion(name, names, or_all=False)}",
        )


def _check_reach(rule: "Rule") -> None:
    """Raise RuleError for an action that does not apply to any of the rule's methods."""
    if any(rule.may_apply_to(method) for method in _CRI_METHODS):
        return
    fault = rule.spec.fault
    if rule.action == "rewrite_images":
        raise RuleError(rule.name, ("match", "methods"), "none of them has images to rename")
    if fault is not None and (fault.cut_after is not None or fault.drop is not None):
        raise RuleError(rule.name, ("match", "methods"), "none of them answers with a stream")
    if rule.spec.rewrite is not None and (rule.spec.rewrite.request or rule.spec.rewrite.response):
        raise RuleError(rule.name, ("match", "methods"), "none of them has messages to rewrite")
