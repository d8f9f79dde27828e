"""Which streams are held, and under what rules: the relay asks when a stream is opened."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from criproxy.cri.messages import request_class, response_class
from criproxy.cri.naming import by_path, method_at, resolve
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
    """The rules as they were loaded; a reload makes another, and calls end under theirs.

    It is told of every stream by its path, and of those that it wants by their headers.
    """

    def __init__(
        self,
        ruleset: RuleSet,
        resources: Resources,
        hooks: Mapping[str, Hook] = MappingProxyType({}),
        previous: "RulePolicy | None" = None,
        learning: bool = False,
    ) -> None:
        """``hooks`` are by rules' names: each rule that has one needs its own there.

        ``previous`` is the Policy that this takes the place of: rules that are in both, and the
        same, go on where they stood. ``learning`` has pods remembered even if no rule asks for
        them: a profile may.
        """
        earlier: Mapping[str, ActiveRule] = {} if previous is None else previous._actors
        now = resources.clock()
        self.ruleset = ruleset
        self.enforcing = ruleset.enforcing
        """Whether there are rules that have to be kept even where a connection cannot be read."""
        self._learning = learning or ruleset.needs_pods
        self._resources = resources
        self._actors: dict[str, ActiveRule] = {
            rule.name: ActiveRule(
                rule, hooks[rule.name] if rule.spec.hook else None, now, earlier.get(rule.name)
            )
            for rule in ruleset.rules
        }

    def wanted(self, path: bytes) -> bool:
        """Tell whether calls of a ``:path`` may have to be held."""
        return self._learns(path) or self.ruleset.plan(path) is not None

    def begin(
        self,
        connection: Connection,
        call: Call | None,
        stream: HeldStream,
        headers: list[Header],
        scope: MessageFilter | None = None,
    ) -> Hold | None:
        """Say what is to be held of a stream that has been opened; None: it passes as it is.

        ``headers`` are the request's; ``call`` is what is known of the call, if that is followed.
        ``scope`` has a say before the rules and after them.
        """
        learns = self._learns(stream.path)
        plan = self.ruleset.plan(stream.path)
        if plan is None and not learns and scope is None:
            return None
        facts = Facts(
            named=resolve(stream.path),
            listener=connection.listener,
            caller=connection.peer,
            metadata=Metadata(headers),
        )
        deeds = EffectExecutor(self._resources, connection, facts.named, call)
        candidates, metadata = self._candidates(plan, facts, deeds)
        if not candidates and not learns and scope is None:
            return None
        shape = _shape(stream.path, candidates, learns, headers, scope)
        walk = RuleEvaluation(
            self._resources, deeds, facts, candidates, self.ruleset.needs_pods, scope
        )
        deadline = self._deadline(call, headers)
        handler = HeldCall(self._resources, stream, shape, walk, deeds, deadline)
        denies = bool(candidates) and candidates[0].denies
        return Hold(handler, shape.request_held, shape.response_held, metadata, unheard=denies)

    def _learns(self, path: bytes) -> bool:
        return self._learning and self._resources.memory.wants(path)

    def _candidates(
        self, plan: MethodRules | None, facts: Facts, deeds: EffectExecutor
    ) -> tuple[list[MatchCandidate], list[Header]]:
        """Return the rules that may act, and the metadata that those add which do for certain.

        That goes on before the request is there: so it is added too where a rule further up, of
        which only the request tells, turns out to match and to be the last.
        """
        candidates: list[MatchCandidate] = []
        if plan is None:
            return candidates, []
        for rule in plan.rules:
            if not rule.is_for(facts):
                continue
            actor = self._actors[rule.name]
            candidate = MatchCandidate(actor, certain=not rule.needs_request(plan.named))
            try:
                if candidate.certain:
                    if not rule.matches(facts):
                        continue
                    candidate.metadata = rule.metadata(facts)
            except Exception as error:
                if not rule.fails or rule.dry_run:
                    deeds.failed(actor, error)
                    continue
                candidate.error = error  # the call fails when it is this rule's turn
            candidates.append(candidate)
            if candidate.certain and actor.ends_the_walk:
                break
        return candidates, [
            header
            for candidate in candidates
            if not candidate.actor.rule.dry_run
            for header in candidate.metadata
        ]

    def _deadline(self, call: Call | None, headers: list[Header]) -> float | None:
        timeout = parse_timeout(_value(headers, b"grpc-timeout"))
        if timeout is None:
            return None
        return timeout + (self._resources.clock() if call is None else call.began)


def _shape(
    path: bytes,
    candidates: Iterable[MatchCandidate],
    learns: bool,
    headers: list[Header],
    scope: MessageFilter | None,
) -> HoldPlan:
    looks = scope is not None and scope.looks_at_request
    return HoldPlan(
        messages=_messages(path),
        request_held=learns or looks or any(candidate.wants_request for candidate in candidates),
        response_held=learns
        or scope is not None
        or any(candidate.actor.acts_after for candidate in candidates),
        encoding=b",".join(value for name, value in headers if name == b"grpc-encoding"),
        learns=learns,
    )


@by_path
def _messages(path: bytes) -> MessageTypes:
    method = method_at(path)
    if method is None:
        return MessageTypes()
    return MessageTypes(request_class(method), response_class(method), method.server_streaming)


def _value(headers: list[Header], wanted: bytes) -> bytes:
    return next((value for name, value in headers if name == wanted), b"")
