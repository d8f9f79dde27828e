"""All compiled rules, and the selection of those that may apply to a method."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from criproxy.cri.methods import METHODS
from criproxy.cri.naming import GROUPS, MethodName, cached_by_path, matches, resolve
from criproxy.peers.peer import Peer
from criproxy.rules.errors import RuleError
from criproxy.rules.spec import RuleSpec

if TYPE_CHECKING:  # importing expressions costs memory that is not paid for without rules
    from criproxy.rules.compiled.rule import Rule

_CRI_METHODS: Final = tuple(resolve(path.encode()) for path in METHODS)
_WILDCARDS: Final = frozenset("*?[")
_SERVICES: Final = frozenset({"RuntimeService", "ImageService"})


_CACHED_METHODS: Final = 256
"""Methods whose rules are kept. Methods outside the CRI are one if the same rules apply to them."""

_CACHED_CLIENTS: Final = 256
"""Clients for which it is kept which rules apply to them."""


@dataclass(frozen=True, slots=True, eq=False)
class MethodRules:
    """The rules that may apply to the calls of one method, in order.

    ``method_name`` is the method's; outside the CRI it is any name, for all methods to which the
    same rules apply.
    """

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
        self._outside_cri = lru_cache(maxsize=_CACHED_METHODS)(_outside_cri)
        self._selects_clients = any(rule.selects_clients for rule in self.rules)
        self._matching = lru_cache(maxsize=_CACHED_CLIENTS)(self._rules_matching)

    def client_key(self, listener: str, caller: Peer) -> bytes:
        """Return a key that is the same for clients to which the same rules apply."""
        if not self._selects_clients:
            return b""
        return self._matching(
            listener, caller.uid, caller.gid, caller.executable, caller.unit, caller.kubelet
        )

    def matching(self, rules: MethodRules, client_key: bytes) -> "Sequence[Rule]":
        """Return those of a method's rules that apply to the clients with a key."""
        if not client_key:
            return rules.rules
        matching = {rule for rule, applies in zip(self.rules, client_key, strict=True) if applies}
        return [rule for rule in rules.rules if rule in matching]

    def _rules_matching(
        self,
        listener: str,
        uid: int,
        gid: int,
        executable: str | None,
        unit: str | None,
        kubelet: bool,
    ) -> bytes:
        caller = Peer(0, uid, gid, executable, unit=unit, kubelet=kubelet)
        return bytes(rule.matches_client(listener, caller) for rule in self.rules)

    def _rules_for(self, path: bytes) -> MethodRules | None:
        """Return the rules that may apply to calls of a ``:path``, None if there are none."""
        method = resolve(path)
        rules = tuple(rule for rule in self.rules if rule.may_apply_to(method))
        if not rules:
            return None
        if method.api_version is None:
            return self._outside_cri(rules)
        return MethodRules(rules, method)


def _outside_cri(rules: "tuple[Rule, ...]") -> MethodRules:
    return MethodRules(rules, resolve(b""))


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
