"""What rules there are for the calls of one method."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from criproxy.cri.naming import Named

if TYPE_CHECKING:
    from criproxy.rules.rule import Rule


@dataclass(frozen=True, slots=True)
class Plan:
    """The rules that may act on a method's calls, in order."""

    rules: "tuple[Rule, ...]"
    named: Named
