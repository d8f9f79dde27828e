"""The results of a comparison, and the medians of its rounds."""

import math
from collections import Counter
from dataclasses import dataclass, field
from statistics import median

from bench.contenders import DIRECT
from bench.criproxy_config import AuditCounts, CallCounts
from bench.loads import Figures


@dataclass(slots=True)
class Memory:
    """A contender's bytes of memory: resident when ready and idle, and after the last round.

    ``together`` is its proportional set size then, in which shared pages count once.
    """

    idle: int
    after: int
    together: int = 0


@dataclass(frozen=True, slots=True)
class Soak:
    """A long run through criproxy. ``samples`` are (calls so far, resident bytes).

    ``recorded`` is of its audit log, if it has one.
    """

    idle: int
    samples: list[tuple[int, int]]
    calls_per_s: float
    errors: dict[str, int]
    seen: CallCounts
    recorded: AuditCounts | None = None


@dataclass(slots=True)
class Results:
    """All results, as they are written to results.json.

    ``figures``: load, contender, rounds. ``rule_counts``: how often a contender's rules did what.
    ``recorded``: backend and contender, what became of its records.
    """

    began: str
    command: str
    facts: dict[str, str]
    settings: dict[str, str]
    versions: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    backends: dict[str, str] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    figures: dict[str, dict[str, list[Figures]]] = field(default_factory=dict)
    memory: dict[str, Memory] = field(default_factory=dict)
    seen: dict[str, CallCounts] = field(default_factory=dict)
    rule_counts: dict[str, dict[str, int]] = field(default_factory=dict)
    recorded: dict[str, AuditCounts] = field(default_factory=dict)
    soak: Soak | None = None
    audited_soak: Soak | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Summary:
    """One contender under one load: medians of the rounds, and sums of what can be summed.

    What is added is taken round by round against direct in the same round. CPU times are a mean
    over all rounds: the kernel's ticks are too coarse for one.
    """

    p50_us: float
    p99_us: float
    added_p50_us: float
    added_p99_us: float
    calls_per_s: float
    cpu_us: float
    own_cpu_us: float
    errors: Counter[str]
    goaways: int


def summarise(results: Results, load: str, contender: str) -> Summary | None:
    """Return the summary of a contender under a load; None where there is no result."""
    rounds = results.figures.get(load, {}).get(contender, [])
    direct = results.figures.get(load, {}).get(DIRECT, [])
    pairs = [
        (mine, base)
        for mine, base in zip(rounds, direct, strict=False)
        if not math.isnan(mine.p50_us) and not math.isnan(base.p50_us)
    ]
    if not pairs:
        return None
    errors: Counter[str] = Counter()
    for figures in rounds:
        errors.update(figures.errors)
    return Summary(
        p50_us=median(mine.p50_us for mine, _ in pairs),
        p99_us=median(mine.p99_us for mine, _ in pairs),
        added_p50_us=median(mine.p50_us - base.p50_us for mine, base in pairs),
        added_p99_us=median(mine.p99_us - base.p99_us for mine, base in pairs),
        calls_per_s=median(mine.calls_per_s for mine, _ in pairs),
        cpu_us=sum(mine.cpu_us for mine, _ in pairs) / len(pairs),
        own_cpu_us=sum(mine.own_cpu_us for mine, _ in pairs) / len(pairs),
        errors=errors,
        goaways=sum(figures.goaways for figures in rounds),
    )
