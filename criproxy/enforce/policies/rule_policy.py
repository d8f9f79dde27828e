"""Decides by the rules which streams are held; the relay calls it when a stream is opened."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from criproxy.cri.messages import request_class, response_class
from criproxy.cri.naming import cached_by_path, method_at, resolve
from criproxy.enforce.evaluation.active_rule import ActiveRule
from criproxy.enforce.evaluation.effect_executor import EffectExecutor
from criproxy.enforce.evaluation.evaluation import MatchCandidate, MessageFilter, RuleEvaluation
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
        plan = self.ruleset.rules_for(stream.path)
        if plan is None and not for_pod_cache and message_filter is None:
            return None
        facts = Facts(
            method_name=resolve(stream.path),
            listener=connection.listener,
            caller=connection.peer,
            metadata=Metadata(headers),
            short_names=self._resources.pod_cache.short_names,
        )
        executor = EffectExecutor(self._resources, connection, facts.method_name, call)
        candidates, metadata = self._candidates(plan, facts, executor)
        if not candidates and not for_pod_cache and message_filter is None:
            return None
        hold_plan = _hold_plan(stream.path, candidates, for_pod_cache, headers, message_filter)
        evaluation = RuleEvaluation(
            self._resources, executor, facts, candidates, self.ruleset.needs_pods, message_filter
        )
        deadline = self._deadline(call, headers)
        handler = HeldCall(self._resources, stream, hold_plan, evaluation, executor, deadline)
        denies = bool(candidates) and candidates[0].denies
        return Hold(
            handler,
            hold_plan.request_held,
            hold_plan.response_held,
            metadata,
            hidden=denies,
            whole_request=hold_plan.messages.request is not None,
        )

    def _is_for_pod_cache(self, path: bytes) -> bool:
        return self._updates_pod_cache and self._resources.pod_cache.wants(path)

    def _candidates(
        self, plan: MethodRules | None, facts: Facts, executor: EffectExecutor
    ) -> tuple[list[MatchCandidate], list[Header]]:
        """Return the rules that may act, and the metadata that the certain ones add.

        Metadata is sent before the request's message arrives: it is added even where an earlier
        rule, which depends on the message, turns out to match and to end the evaluation.
        """
        candidates: list[MatchCandidate] = []
        if plan is None:
            return candidates, []
        for rule in plan.rules:
            if not rule.matches_client(facts):
                continue
            active = self._active[rule.name]
            candidate = MatchCandidate(active, certain=not rule.needs_request(plan.method_name))
            try:
                if candidate.certain:
                    if not rule.matches(facts):
                        continue
                    candidate.metadata = rule.metadata(facts)
            except Exception as error:
                if not rule.fails_closed or rule.dry_run:
                    executor.rule_failed(active, error)
                    continue
                candidate.error = error  # fails the call when it is this rule's turn
            candidates.append(candidate)
            if candidate.certain and active.ends_evaluation:
                break
        return candidates, [
            header
            for candidate in candidates
            if not candidate.active.rule.dry_run
            for header in candidate.metadata
        ]

    def _deadline(self, call: Call | None, headers: list[Header]) -> float | None:
        timeout = parse_timeout(_header(headers, b"grpc-timeout"))
        if timeout is None:
            return None
        return timeout + (self._resources.clock() if call is None else call.began)


def _hold_plan(
    path: bytes,
    candidates: Iterable[MatchCandidate],
    for_pod_cache: bool,
    headers: list[Header],
    message_filter: MessageFilter | None,
) -> HoldPlan:
    filtered = message_filter is not None and message_filter.filters_request
    return HoldPlan(
        messages=_messages(path),
        request_held=for_pod_cache
        or filtered
        or any(candidate.needs_request for candidate in candidates),
        response_held=for_pod_cache
        or message_filter is not None
        or any(candidate.active.acts_on_response for candidate in candidates),
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
