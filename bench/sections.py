"""The sections of the comparison: contenders, loads and unit of each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from bench.audited import AUDITED
from bench.contenders import CONTENDERS, EVERYTHING_ON, Contender
from bench.loads import AUDIT_LOADS, LOADS, RULE_LOADS, Load
from bench.ruled import RULED

PROXIES: Final = "proxies"
RULES: Final = "rules"
AUDIT: Final = "audit"


@dataclass(frozen=True, slots=True)
class Section:
    """Contenders that take turns under the same loads, all of them running at once.

    ``unit`` is the contender whose added latency is the unit of a column. ``turns`` is how often
    each has a turn in a round. Many short ones tell apart what few long ones do not: a connection's
    p50 is off by a quarter as a whole: two criproxies of one configuration came out a fifth apart
    after 14 turns of 500 calls, and 1 to 4 % after 70 of 100.
    """

    name: str
    contenders: Sequence[Contender]
    loads: Sequence[Load]
    unit: str
    turns: int = 1

    def only(self, contenders: Sequence[str], loads: Sequence[str]) -> "Section":
        """Return the section with the named contenders and loads only; no name means all."""
        return replace(
            self,
            contenders=[one for one in self.contenders if not contenders or one.name in contenders],
            loads=[one for one in self.loads if not loads or one.name in loads],
        )


SECTIONS: Final = (
    Section(PROXIES, CONTENDERS, LOADS, unit="socat"),
    Section(RULES, RULED, RULE_LOADS, unit=EVERYTHING_ON, turns=8),
    Section(AUDIT, AUDITED, AUDIT_LOADS, unit=EVERYTHING_ON, turns=3),
)


def unit_of(load: str) -> str:
    """Return the unit of the section that a load belongs to."""
    return next(part.unit for part in SECTIONS if any(one.name == load for one in part.loads))


def contenders(sections: Sequence[Section]) -> list[Contender]:
    """Return the contenders of all these sections, each once."""
    return list({which.name: which for part in sections for which in part.contenders}.values())
