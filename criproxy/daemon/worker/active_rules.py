"""The rules in force, and the state that outlives a reload: counters and the pod cache."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from criproxy.concurrency.tasks import Tasks
from criproxy.config.load import LoadedConfig
from criproxy.config.rule_compilation import compiled
from criproxy.daemon.worker.policy_registry import PolicyRegistry
from criproxy.enforce.counts import Counts
from criproxy.observe.logs.log import Log
from criproxy.relay.notifier import Clock
from criproxy.wire.intercept.held_bytes import HeldBytesBudget

if TYPE_CHECKING:  # what these import costs memory that is not paid for without rules
    from criproxy.enforce.hooks.hook import Hook
    from criproxy.enforce.policies.rule_policy import RulePolicy
    from criproxy.enforce.resources import Resources
    from criproxy.rules.compiled.rule import Rule
    from criproxy.rules.compiled.ruleset import RuleSet
    from criproxy.rules.pod_cache import PodCache


_TICK: Final = 1.0
"""Seconds between two checks for held messages that take too long to arrive."""


class DatedCounts(Counts):
    """Counts with the time of each rule's last match."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._now = now
        self.last: dict[str, float] = {}
        """Seconds since the epoch, by rule."""

    def count_match(self, rule: str, action: str, dry_run: bool) -> None:
        """See Counts."""
        super().count_match(rule, action, dry_run)
        self.last[rule] = self._now()


@dataclass(frozen=True, slots=True)
class CompiledRules:
    """Rules that are compiled and not in force yet. ``ruleset`` is None where there are none."""

    loaded: LoadedConfig
    ruleset: "RuleSet | None" = None
    hooks: Mapping[str, "Hook"] = field(default_factory=dict)


def prepare(loaded: LoadedConfig) -> CompiledRules:
    """Compile rules and load their hooks. Slow; safe on any thread. Raises ConfigError."""
    if not loaded.rules:
        return CompiledRules(loaded)
    return CompiledRules(loaded, *compiled(loaded))


class ActiveRules:
    """Puts rules in force; listeners find the policies in ``registry``."""

    def __init__(
        self,
        registry: PolicyRegistry,
        counts: DatedCounts,
        budget: HeldBytesBudget,
        tasks: Tasks,
        log: Log,
        clock: Clock,
        list_pods: Callable[["PodCache"], None],
        share_update: Callable[[bytes, bytes, bytes], None],
    ) -> None:
        """``list_pods`` begins to fill a pod cache with what the runtimes have, and returns.

        ``share_update`` tells the pod caches of other workers of a call.
        """
        self.registry = registry
        self.counts = counts
        self._budget = budget
        self._tasks = tasks
        self._log = log
        self._clock = clock
        self._list_pods = list_pods
        self._share_update = share_update
        self._short_names: str | None = None
        self._ruleset: RuleSet | None = None
        self._policy: RulePolicy | None = None
        self._resources: Resources | None = None
        self._updates_pod_cache = False
        self._timer: asyncio.TimerHandle | None = None

    def adopt(self, prepared: CompiledRules) -> None:
        """Put rules in force, for the calls that begin from now on."""
        if self._timer is None:
            self._tick()
        ruleset = prepared.ruleset
        updates_pod_cache = self.registry.bound_pods or (ruleset is not None and ruleset.needs_pods)
        if ruleset is None and not (self.registry.scoped or self.registry.bound_pods):
            self._policy = None
        else:
            from criproxy.enforce.policies.rule_policy import RulePolicy
            from criproxy.rules.compiled.ruleset import RuleSet

            resources = self._resources = self._resources or self._new_resources()
            rules = RuleSet([]) if ruleset is None else ruleset
            self._policy = RulePolicy(
                rules, resources, prepared.hooks, self._policy, updates_pod_cache
            )
            for rule in rules.rules:  # a counter starts at 0, so that the first match is a rate
                self.counts.matches[rule.name, rule.action, _mode(rule)] += 0
            if updates_pod_cache and not self._updates_pod_cache:
                self._list_pods(resources.pod_cache)
        self.registry.adopt(self._policy, self._resources)
        self._ruleset = ruleset
        self._updates_pod_cache = updates_pod_cache

    def described(self) -> dict[str, Any]:
        """Return the rules in order with their counters, for /rules."""
        rules = () if self._ruleset is None else self._ruleset.rules
        return {"rules": [self._describe(rule) for rule in rules]}

    def update_pods(self, path: bytes, request: bytes, response: bytes) -> None:
        """Update the pod cache, if there is one, from a call that another worker has relayed."""
        from criproxy.rules.errors import EvaluationError

        if self._resources is not None:
            try:
                self._resources.pod_cache.update(path, request, response)
            except EvaluationError as error:  # as for a call of this worker
                self._log.warning("not remembered", detail=str(error))

    def read_short_names(self, short_names: str) -> None:
        """Say how the runtimes read short names of images."""
        self._short_names = short_names
        if self._resources is not None:
            self._resources.pod_cache.short_names = short_names

    def close(self) -> None:
        """Release the resources of rules."""
        if self._timer is not None:
            self._timer.cancel()
        if self._policy is not None:
            self._policy.close()
        if self._resources is not None:
            self._resources.message_executor.close()

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_TICK, self._tick)
        self._budget.tick(self._clock())

    def _describe(self, rule: "Rule") -> dict[str, Any]:
        counts = self.counts
        last = counts.last.get(rule.name)
        return {
            "name": rule.name,
            "action": rule.action,
            "mode": _mode(rule),
            "methods": list(rule.spec.match.methods),
            "matches": counts.matches[rule.name, rule.action, _mode(rule)],
            "errors": sum(n for (name, _), n in dict(counts.errors).items() if name == rule.name),
            "last_match": None if last is None else _time(last),
        }

    def _new_resources(self) -> "Resources":
        from criproxy.concurrency.steps import LargeMessageExecutor
        from criproxy.enforce.resources import Resources
        from criproxy.rules.pod_cache import PodCache

        return Resources(
            pod_cache=PodCache(self._short_names),
            counts=self.counts,
            tasks=self._tasks,
            log=self._log,
            clock=self._clock,
            held_limit=self._budget.stream_limit,
            message_executor=LargeMessageExecutor(),
            share_update=self._share_update,
        )


def _mode(rule: "Rule") -> str:
    return "dry-run" if rule.dry_run else "enforce"


def _time(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
