"""The rules that may match the calls of one method by one client, and which of them match a call.

Rules that do not depend on the request's message are evaluated when the call is opened, all others
when the message is there. In both cases those are looked up whose conditions may hold, so that most
rules that do not match cost nothing (see :mod:`criproxy.rules.compiled.condition_index`).
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from criproxy.cri.naming import MethodName
from criproxy.enforce.counts import Counts, RuleNames
from criproxy.enforce.evaluation.active_rule import ActiveRule
from criproxy.rules.compiled.condition_index import ConditionIndex, Found, Possible, UnknownPods
from criproxy.rules.errors import UNKNOWN_POD
from criproxy.rules.facts import Facts
from criproxy.wire.hpack.decoder import Header


@dataclass(slots=True)
class MatchCandidate:
    """A rule that may act on a call: it is known to match, or has to be evaluated.

    ``position`` is its place among the rules of the plan.
    """

    active: ActiveRule
    position: int
    matches: bool
    """Whether it is known to match."""
    error: Exception | None = None
    """The failure of its evaluation, which is to fail the call when it is the rule's turn."""
    metadata: list[Header] = field(default_factory=list)
    """Headers that it adds to the request's."""

    @property
    def denies(self) -> bool:
        """Whether it denies the call, unless an earlier rule acts."""
        rule = self.active.rule
        return self.matches and rule.action == "deny" and not rule.dry_run and self.error is None


class MatchPlan:
    """The rules that may match the calls of one method by one client, in order."""

    def __init__(self, rules: Sequence[ActiveRule], method: MethodName) -> None:
        self.rules = tuple(rules)
        self.needs_pods = any(each.rule.needs_pods_for(method) for each in rules)
        """Whether one of the rules needs a call's pod, container or image."""
        late = [each.rule.needs_request(method) for each in rules]
        conditions = [each.rule.condition(method) for each in rules]
        self._early = ConditionIndex(
            (position, conditions[position]) for position, each in enumerate(late) if not each
        )
        self._late = ConditionIndex(
            (position, conditions[position]) for position, each in enumerate(late) if each
        )
        self._names: dict[UnknownPods, RuleNames] = {}
        self._first_on_response = next(
            (each for each in self._late.positions if rules[each].acts_on_response), len(rules)
        )

    def candidates(
        self, facts: Facts, failed: Callable[[ActiveRule, Exception], None]
    ) -> "Candidates":
        """Return the rules that may act on a call, of which ``facts`` are without the request.

        ``failed`` is called with a rule that fails, and lets the call pass.
        """
        known: list[MatchCandidate] = []
        end = len(self.rules)
        for possible in _all_of(self._early.find(facts)):
            active = self.rules[possible.position]
            candidate = MatchCandidate(active, possible.position, matches=True)
            try:
                if not (possible.holds or active.rule.condition_holds(facts)):
                    continue
                candidate.metadata = active.rule.metadata(facts)
            except Exception as error:
                if not active.rule.fails_closed or active.rule.dry_run:
                    failed(active, error)
                    continue
                candidate.error = error  # fails the call when it is this rule's turn
            known.append(candidate)
            if active.ends_evaluation:
                end = possible.position
                break
        return Candidates(self, known, end)

    def next_late(self, first: int) -> int:
        """Return the first position, from ``first`` on, of a rule that depends on the request;
        behind the last rule if there is none."""
        positions = self._late.positions
        index = bisect_left(positions, first)
        return positions[index] if index < len(positions) else len(self.rules)

    def late_between(self, first: int, end: int) -> Sequence[int]:
        """Return the positions, from ``first`` to before ``end``, of rules that depend on the
        request."""
        positions = self._late.positions
        return positions[bisect_left(positions, first) : bisect_left(positions, end)]

    def names_of(self, unknown_pods: UnknownPods) -> RuleNames:
        """Return the names of rules that :meth:`find` has returned."""
        names = self._names.get(unknown_pods)
        if names is None:
            rules = (self.rules[position].rule.name for position in unknown_pods.positions)
            names = self._names[unknown_pods] = RuleNames(tuple(rules))
        return names

    def acts_on_response_before(self, end: int) -> bool:
        """Return whether a rule before ``end`` depends on the request and acts on responses."""
        return self._first_on_response < end

    def find(self, facts: Facts) -> Found:
        """Return the rules that may match a call, of those that depend on the request."""
        return self._late.find(facts)


class Candidates:
    """The rules that may act on one call."""

    def __init__(self, plan: MatchPlan, known: Sequence[MatchCandidate], end: int) -> None:
        """``known`` are those that are known to match, or to fail the call, in order.

        ``end`` is the position from which on rules that depend on the request are not evaluated.
        """
        self.plan = plan
        self._known = known
        self._end = end

    def __bool__(self) -> bool:
        return bool(self._known) or self._has_late

    @property
    def _has_late(self) -> bool:
        return self.plan.next_late(0) < self._end

    @property
    def needs_request(self) -> bool:
        """Whether the request must be held until the rules have been evaluated."""
        return self._has_late or any(
            each.error is not None or each.active.needs_request for each in self._known
        )

    @property
    def acts_on_response(self) -> bool:
        """Whether one of them may act on responses."""
        return self.plan.acts_on_response_before(self._end) or any(
            each.active.acts_on_response for each in self._known
        )

    @property
    def denies(self) -> bool:
        """Whether the call is denied, whatever the request is."""
        if not self._known:
            return False
        first = self._known[0]
        return first.denies and self.plan.next_late(0) > first.position

    @property
    def metadata(self) -> list[Header]:
        """The headers that the rules add to the request's."""
        return [
            header
            for each in self._known
            if not each.active.rule.dry_run
            for header in each.metadata
        ]

    def early(self, first: int) -> "Batch":
        """Return those from a position on that do not depend on the request, up to the next rule
        that does; none if that is the first of them."""
        end = self.plan.next_late(first)
        known = [each for each in self._known if first <= each.position < end]
        return Batch(known, last=end >= self._end)

    def all(self, facts: Facts, first: int) -> "Batch":
        """Return those from a position on; ``facts`` are with the request."""
        found = self.plan.find(facts)
        late = (each for each in found.possible if first <= each.position < self._end)
        return Batch(self._in_order(late, first), found.unknown_pods, last=True)

    def unread(self, first: int) -> "Batch":
        """Return those from a position on for a request that cannot be read."""
        late = (Possible(each, holds=False) for each in self.plan.late_between(first, self._end))
        return Batch(self._in_order(late, first), last=True)

    def count_unknown_pods(
        self, counts: Counts, batch: "Batch", first: int, end: int | None = None
    ) -> None:
        """Count the rules of a batch, from ``first`` to before ``end``, that fail because the
        call's pod is unknown. ``end`` is that of the evaluation if it is None."""
        for each in batch.unknown_pods:
            positions = each.between(first, self._end if end is None else end)
            if positions is each.positions:
                counts.count_failures(self.plan.names_of(each), UNKNOWN_POD)
            else:
                for position in positions:
                    counts.count_failure(self.plan.rules[position].rule.name, UNKNOWN_POD)

    def _in_order(self, late: Iterable[Possible], first: int) -> list[MatchCandidate]:
        rules = self.plan.rules
        candidates = [MatchCandidate(rules[position], position, holds) for position, holds in late]
        known = [each for each in self._known if each.position >= first]
        return sorted([*candidates, *known], key=_position) if known else candidates


@dataclass(frozen=True, slots=True)
class Batch:
    """Rules to be evaluated one after the other, until one of them changes the request.

    ``unknown_pods`` are rules that fail in their place; ``last``: there are no more after these.
    """

    candidates: Sequence[MatchCandidate]
    unknown_pods: Sequence[UnknownPods] = ()
    last: bool = False


def _all_of(found: Found) -> Sequence[Possible]:
    """Return all rules that were found, in order. Those whose pod is unknown are evaluated as well:
    only outside the CRI a rule about pods does not depend on the request."""
    if not found.unknown_pods:
        return found.possible
    unknown = [position for each in found.unknown_pods for position in each.positions]
    return sorted([*found.possible, *(Possible(position, holds=False) for position in unknown)])


def _position(candidate: MatchCandidate) -> int:
    return candidate.position
