"""Decides by the rules which streams are held; the relay calls it when a stream is opened."""

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from criproxy.cri.messages import request_class, response_class
from criproxy.cri.naming import cached_by_path, method_at, resolve
from criproxy.enforce.evaluation.active_rule import ActiveRule
from criproxy.enforce.evaluation.effect_executor import EffectExecutor
from criproxy.enforce.evaluation.evaluation import MessageFilter, RuleEvaluation
from criproxy.enforce.held_call import HeldCall, HoldPlan, MessageTypes
from criproxy.enforce.hooks.hook import Hook
from criproxy.enforce.resources import Resources
from criproxy.peers.peer import Connection
from criproxy.rules.compiled.ruleset import MethodRules, RuleSet
from criproxy.rules.facts import Facts, Metadata
from criproxy.wire.grpc import parse_timeout
from criproxy.wire.hpack.decoder import Header
from criproxy.wire.intercept.stream_handler import HeldStream, Hold
from criproxy.wire.reading.calls import Call

if TYPE_CHECKING:  # importing expressions costs memory that is not paid for without rules
    from criproxy.enforce.evaluation.match_plan import Candidates, MatchPlan

_CACHED_PLANS: Final = 256
"""Plans that are kept: of each method that clients call, for each kind of clients that rules
distinguish."""


class RulePolicy:
    """The rules of one load of the configuration. A reload creates another policy; calls in flight
    keep theirs.

    ``wanted`` is called with the path of every stream, ``begin`` with the headers of those wanted.
    """

    def __init__(
        self,
        ruleset: RuleSet,
        resources: Resources,
        hooks: Mapping[str, Hook] = MappingProxyType({}),
        previous: "RulePolicy | None" = None,
        updates_pod_cache: bool = False,
    ) -> None:
        """``hooks`` are by the names of the rules that have one.

        ``previous`` is the policy that this replaces: rules that are the same in both keep their
        state. ``updates_pod_cache``: update the pod cache even if no rule reads pods, since a
        profile may.
        """
        previous_rules: Mapping[str, ActiveRule] = {} if previous is None else previous._active
        now = resources.clock()
        self.ruleset = ruleset
        self.enforcing = ruleset.enforcing
        """Whether some rule has to be enforced even where a connection cannot be read."""
        self._updates_pod_cache = updates_pod_cache or ruleset.needs_pods
        self._resources = resources
        self._active: dict[str, ActiveRule] = {
            rule.name: ActiveRule(
                rule,
                hooks[rule.name] if rule.spec.hook else None,
                now,
                previous_rules.get(rule.name),
            )
            for rule in ruleset.rules
        }
        self._plans = lru_cache(maxsize=_CACHED_PLANS)(self._new_plan)
        for hook in hooks.values():
            hook.start(resources.log)

    def close(self) -> None:
        """Stop the hooks, when no calls follow."""
        for active in self._active.values():
            if active.hook is not None:
                active.hook.stop()

    def wanted(self, path: bytes) -> bool:
        """Return whether calls of a ``:path`` may have to be held."""
        return self._is_for_pod_cache(path) or self.ruleset.rules_for(path) is not None

    def begin(
        self,
        connection: Connection,
        call: Call | None,
        stream: HeldStream,
        headers: list[Header],
        message_filter: MessageFilter | None = None,
    ) -> Hold | None:
        """Decide what is held of a stream that has been opened; None to forward it unchanged.

        ``headers`` are the request's; ``call`` is the call as observers see it, None if it is not
        observed. ``message_filter`` is applied to requests before the rules and to responses after
        them.
        """
        for_pod_cache = self._is_for_pod_cache(stream.path)
        rules = self.ruleset.rules_for(stream.path)
        if rules is None and not for_pod_cache and message_filter is None:
            return None
        facts = Facts(
            method_name=resolve(stream.path),
            listener=connection.listener,
            caller=connection.peer,
            metadata=Metadata(headers),
            short_names=self._resources.pod_cache.short_names,
        )
        executor = EffectExecutor(self._resources, connection, facts.method_name, call)
        candidates = None
        if rules is not None:
            plan = self._plan_for(rules, connection)
            candidates = plan.candidates(facts, executor.rule_failed)
        if not candidates and not for_pod_cache and message_filter is None:
            return None
        hold_plan = _hold_plan(stream.path, candidates, for_pod_cache, headers, message_filter)
        evaluation = RuleEvaluation(self._resources, executor, facts, candidates, message_filter)
        deadline = self._deadline(call, headers)
        handler = HeldCall(self._resources, stream, hold_plan, evaluation, executor, deadline)
        return Hold(
            handler,
            hold_plan.request_held,
            hold_plan.response_held,
            candidates.metadata if candidates else [],
            hidden=candidates is not None and candidates.denies,
            whole_request=hold_plan.messages.request is not None,
        )

    def _is_for_pod_cache(self, path: bytes) -> bool:
        return self._updates_pod_cache and self._resources.pod_cache.wants(path)

    def _plan_for(self, rules: MethodRules, connection: Connection) -> "MatchPlan":
        key = self.ruleset.client_key(connection.listener, connection.peer)
        return self._plans(rules, key)

    def _new_plan(self, rules: MethodRules, client_key: bytes) -> "MatchPlan":
        from criproxy.enforce.evaluation.match_plan import MatchPlan

        matching = self.ruleset.matching(rules, client_key)
        return MatchPlan([self._active[rule.name] for rule in matching], rules.method_name)

    def _deadline(self, call: Call | None, headers: list[Header]) -> float | None:
        timeout = parse_timeout(_header(headers, b"grpc-timeout"))
        if timeout is None:
            return None
        return timeout + (self._resources.clock() if call is None else call.began)


def _hold_plan(
    path: bytes,
    candidates: "Candidates | None",
    for_pod_cache: bool,
    headers: list[Header],
    message_filter: MessageFilter | None,
) -> HoldPlan:
    filtered = message_filter is not None and message_filter.filters_request
    return HoldPlan(
        messages=_messages(path),
        request_held=for_pod_cache
        or filtered
        or (candidates is not None and candidates.needs_request),
        response_held=for_pod_cache
        or message_filter is not None
        or (candidates is not None and candidates.acts_on_response),
        encoding=b",".join(value for name, value in headers if name == b"grpc-encoding"),
        updates_pod_cache=for_pod_cache,
    )


@cached_by_path
def _messages(path: bytes) -> MessageTypes:
    method = method_at(path)
    if method is None:
        return MessageTypes()
    return MessageTypes(request_class(method), response_class(method), method.server_streaming)


def _header(headers: list[Header], name: bytes) -> bytes:
    return next((value for key, value in headers if key == name), b"")
