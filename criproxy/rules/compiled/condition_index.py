"""An index of the rules of one method by what their conditions require to be equal.

A condition such as ``pod.namespace == "a"`` (see :mod:`criproxy.rules.cel.equality`) is found by
the value of its field, so that a call costs the same however many rules compare the field with
other values. All other conditions have to be evaluated.

The result is that of evaluating each condition, errors included: where a variable of a condition is
not known, the condition is not left out.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from criproxy.rules.cel.equality import Equality, equality_of
from criproxy.rules.cel.expressions import Expression
from criproxy.rules.cel.variables import FACTS, POD_SUBJECTS, SUBJECTS
from criproxy.rules.errors import EvaluationError
from criproxy.rules.facts import Facts

_Key = tuple[tuple[str, ...], frozenset[str]]
"""A path and the variables of a condition."""


class Possible(NamedTuple):
    """A rule that may match: its position, and whether its condition is known to hold."""

    position: int
    holds: bool


class UnknownPods:
    """Positions of rules, in order, that need nothing but a pod, container or image.

    Where it is unknown, each of them fails with the reason ``unknown_pod``.
    """

    __slots__ = ("positions",)

    def __init__(self, positions: Sequence[int]) -> None:
        self.positions = tuple(positions)

    def between(self, first: int, end: int) -> Sequence[int]:
        """Return the positions from ``first`` to before ``end``."""
        positions = self.positions
        if first <= positions[0] and positions[-1] < end:
            return positions
        return positions[bisect_left(positions, first) : bisect_left(positions, end)]


@dataclass(frozen=True, slots=True)
class Found:
    """The rules that may match a call, in order, and those that fail because its pod is unknown."""

    possible: Sequence[Possible]
    unknown_pods: Sequence[UnknownPods] = ()


class ConditionIndex:
    """Finds the rules whose conditions may hold."""

    def __init__(self, conditions: Iterable[tuple[int, Expression | None]]) -> None:
        """``conditions`` are those of rules, each with the position of its rule, in order."""
        self.positions: list[int] = []
        """The positions of all rules, in order."""
        others: list[Possible] = []
        members: defaultdict[_Key, list[tuple[int, Equality]]] = defaultdict(list)
        for position, condition in conditions:
            self.positions.append(position)
            equality = None if condition is None else equality_of(condition)
            if condition is None or equality is None:
                others.append(Possible(position, holds=False))
            else:
                members[equality.path, condition.names].append((position, equality))
        self._groups = tuple(_Group(*key, each) for key, each in members.items())
        self._others = Found(others)

    def find(self, facts: Facts) -> Found:
        """Return the rules that may match a call."""
        possible: list[Possible] = []
        unknown_pods: list[UnknownPods] = []
        for group in self._groups:
            found, unknown = group.find(facts)
            possible += found
            if unknown is not None:
                unknown_pods.append(unknown)
        if not possible and not unknown_pods:
            return self._others
        return Found(sorted([*possible, *self._others.possible]), unknown_pods)


class _Group:
    """Conditions on the same string that use the same variables."""

    def __init__(
        self,
        path: tuple[str, ...],
        names: frozenset[str],
        members: Sequence[tuple[int, Equality]],
    ) -> None:
        """``members`` are the positions of rules, in order, and what their conditions imply."""
        self._variable, *self._fields = path
        self._uncertain = [FACTS[name] for name in names & SUBJECTS]
        """What is not known of every call."""
        self._all = [Possible(position, holds=False) for position, _ in members]
        self._inexact = [
            Possible(position, holds=False) for position, each in members if not each.exact
        ]
        exact = [position for position, each in members if each.exact]
        self._unknown_pods = UnknownPods(exact) if exact else None
        self._by_value: defaultdict[str, list[Possible]] = defaultdict(list)
        for position, each in members:
            for value in each.values:
                self._by_value[value].append(Possible(position, each.exact))

    def find(self, facts: Facts) -> tuple[Sequence[Possible], UnknownPods | None]:
        """Return the rules that may match, and those that fail because the pod is unknown."""
        try:
            if all(fact(facts) is not None for fact in self._uncertain):
                return self._by_value.get(self._text(facts), ()), None
        except EvaluationError:  # each of them fails with it when it is evaluated
            return self._all, None
        if self._variable not in POD_SUBJECTS:
            return self._all, None
        return self._inexact, self._unknown_pods

    def _text(self, facts: Facts) -> str:
        value = FACTS[self._variable](facts)
        for field in self._fields:
            value = getattr(value, field)
        return value or ""
