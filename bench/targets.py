"""The targets of the comparison and their verdicts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bench.audited import DEFAULT, ENVOY_LOG, EVERYTHING, KUBELET, TRACES, TRACES_AND_CAPTURE
from bench.contenders import EVERYTHING_ON
from bench.processes import MIB
from bench.results import Results, Soak, Summary, summarise

FLAT_MIB: Final = 2.0
"""Maximum growth of memory after the first tenth of the long run that counts as flat."""
SOAK_CALLS: Final = 1_000_000
_RING_MIB: Final = 40.0
"""Memory beside a criproxy's that traces and a ring capture of 32 MiB may take."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target with its measured value; None if it was not measured."""

    target: str
    limit: str
    measured: str | None
    met: bool | None
    missed_by: str


def verdicts(results: Results) -> list[Verdict]:
    """Return every target with its verdict, in the order of the report."""
    return [
        _ratio(results, "go-1", "socat", added, "added p50", 1.6, at_most=True),
        _ratio(results, "go-1", "haproxy", added, "added p50", 1.0, at_most=True),
        _ratio(results, "go-1", "envoy", added, "added p50", 0.3, at_most=True),
        _ratio(results, "go-1", "grpc.aio", added, "added p50", 0.1, at_most=True),
        _ratio(results, "go-16", "envoy", _throughput, "throughput, 16 at once", 1.2),
        _ratio(results, "go-16", "grpc.aio", _throughput, "throughput, 16 at once", 5.0),
        _ratio(results, "go-16", "haproxy", _throughput, "throughput (the mark to pass)", 1.0),
        *[_of_rules(results, one) for one in RULE_RATIOS if one.limit is not None],
        *_of_audit(results),
        *_memory(results),
    ]


def added(summary: Summary) -> float:
    """Return the median latency added to a direct call, in microseconds."""
    return summary.added_p50_us


def whole(summary: Summary) -> float:
    """Return the median latency, for calls that do not reach the runtime, in microseconds."""
    return summary.p50_us


def _throughput(summary: Summary) -> float:
    return summary.calls_per_s


@dataclass(frozen=True, slots=True)
class RuleRatio:
    """A criproxy with rules beside another contender; ``limit``, if any, is at most."""

    what: str
    mine: str
    other: str
    figure: Callable[[Summary], float]
    limit: float | None = None

    def value(self, results: Results, load: str) -> float | None:
        """Return the ratio under a load; None where it was not measured."""
        return _ratio_of(results, load, self.mine, self.other, self.figure)


RULE_RATIOS: Final = (
    RuleRatio("20 rules, none for the method", "criproxy-unmatched", EVERYTHING_ON, added, 1.1),
    RuleRatio("a `where` looked at, and false", "criproxy-false", EVERYTHING_ON, added),
    RuleRatio("a request rewritten", "criproxy-request", EVERYTHING_ON, added),
    RuleRatio("a response rewritten", "criproxy-response", EVERYTHING_ON, added),
    RuleRatio("a request rewritten", "criproxy-request", "grpc.aio-request", added, 0.35),
    RuleRatio("a fault, 0 %", "criproxy-abort-0", "envoy-abort-0", added),
    RuleRatio("a delay, 0 %", "criproxy-delay-0", "envoy-delay-0", added),
    RuleRatio("a delay, 100 %", "criproxy-delay-100", "envoy-delay-100", added),
    RuleRatio("a fault, 100 %", "criproxy-abort-100", "envoy-abort-100", whole),
    RuleRatio("a denial", "criproxy-deny", "envoy-abort-100", whole),
)
"""The ratios of the rules section, in the order of the report."""


def _of_rules(results: Results, one: RuleRatio) -> Verdict:
    assert one.limit is not None
    target = f"{one.what}: added p50 / {one.other}'s"
    return _verdict(target, one.value(results, "rules-1"), one.limit, " x", at_most=True)


@dataclass(frozen=True, slots=True)
class AuditRatio:
    """A contender with a log, traces or a capture beside one without.

    Limits, if any, are of Version.
    """

    what: str
    mine: str
    other: str
    added_at_most: float | None = None
    throughput_at_least: float | None = None

    @property
    def subject(self) -> str:
        """What it is of, in the name of a target."""
        return self.what if self.mine in (TRACES, TRACES_AND_CAPTURE) else f"audit, {self.what}"

    def added(self, results: Results, load: str) -> float | None:
        """Return the ratio of what is added to direct at the median; None: not measured."""
        return _ratio_of(results, load, self.mine, self.other, added)

    def throughput(self, results: Results, load: str) -> float | None:
        """Return the ratio of calls a second; None where it was not measured."""
        return _ratio_of(results, load, self.mine, self.other, _throughput)


AUDIT_RATIOS: Final = (
    AuditRatio("the default policy, the kubelet's reads", KUBELET, EVERYTHING_ON, 1.25, 0.8),
    AuditRatio("the default policy, another's reads", DEFAULT, EVERYTHING_ON),
    AuditRatio("RequestResponse on everything", EVERYTHING, EVERYTHING_ON),
    AuditRatio("traces, a tenth sampled", TRACES, EVERYTHING_ON, 1.2, 0.85),
    AuditRatio("traces and a ring", TRACES_AND_CAPTURE, EVERYTHING_ON, 1.2, 0.85),
    AuditRatio("an access log", ENVOY_LOG, "envoy"),
)
"""The ratios of the audit section, in the order of the report."""


def unaccounted(results: Results) -> list[str]:
    """Return the audit logs in which calls are neither recorded nor reported as dropped."""
    found = dict(results.recorded)
    if results.audited_soak and results.audited_soak.recorded:
        found["the long run"] = results.audited_soak.recorded
    return [
        f"{name}: {one.wanted:,} to record, {one.records:,} recorded, {one.dropped or 'no'} dropped"
        for name, one in found.items()
        if not one.adds_up
    ]


def _of_audit(results: Results) -> list[Verdict]:
    found: list[Verdict] = []
    for one in AUDIT_RATIOS:
        if (limit := one.added_at_most) is not None:
            target = f"{one.subject}: added p50 / {one.other}'s"
            value = one.added(results, "audit-1")
            found.append(_verdict(target, value, limit, " x", at_most=True))
        if (limit := one.throughput_at_least) is not None:
            target = f"{one.subject}: throughput, 16 at once / {one.other}'s"
            value = one.throughput(results, "audit-16")
            found.append(_verdict(target, value, limit, " x", at_most=False))
    mine, other = (results.memory.get(name) for name in (TRACES_AND_CAPTURE, EVERYTHING_ON))
    more = (mine.together - other.together) / MIB if mine and other else None
    target = f"traces and a ring: PSS beside {EVERYTHING_ON}'s"
    found.append(_verdict(target, more, _RING_MIB, " MiB more", at_most=True))
    growth = _growth(results.audited_soak) if results.audited_soak else None
    target = "audit, everything: growth after the first tenth of the long run"
    return [*found, _verdict(target, growth, FLAT_MIB, " MiB", at_most=True)]


def _growth(soak: Soak) -> float:
    """Return the growth of memory after the first tenth of a long run, in MiB."""
    calls, last = soak.samples[-1]
    return (last - next(rss for done, rss in soak.samples if done >= calls / 10)) / MIB


def _ratio(
    results: Results,
    load: str,
    other: str,
    figure: Callable[[Summary], float],
    what: str,
    limit: float,
    *,
    at_most: bool = False,
) -> Verdict:
    value = _ratio_of(results, load, EVERYTHING_ON, other, figure)
    return _verdict(f"{what} / {other}'s", value, limit, " x", at_most=at_most)


def _ratio_of(
    results: Results, load: str, mine: str, other: str, figure: Callable[[Summary], float]
) -> float | None:
    ours, theirs = summarise(results, load, mine), summarise(results, load, other)
    return figure(ours) / figure(theirs) if ours and theirs and figure(theirs) > 0 else None


def _memory(results: Results) -> list[Verdict]:
    idle = last = growth = None
    calls = 0
    if soak := results.soak:
        idle, last = soak.idle / MIB, soak.samples[-1][1] / MIB
        calls = soak.samples[-1][0]
        growth = _growth(soak)
    after = f"resident after {calls or SOAK_CALLS:,} calls"
    return [
        _verdict("resident, idle", idle, 45, " MiB", at_most=True),
        _verdict(after, last, 60, " MiB", at_most=True),
        _verdict("growth after the first tenth of them", growth, FLAT_MIB, " MiB", at_most=True),
    ]


def _verdict(
    target: str, value: float | None, limit: float, unit: str, *, at_most: bool
) -> Verdict:
    wanted = f"{'at most' if at_most else 'at least'} {limit:g}{unit}"
    if value is None:
        return Verdict(target, wanted, None, None, "")
    met = value <= limit if at_most else value >= limit
    by = "" if met else f"{abs(value - limit):.2f}{unit} ({abs(value / limit - 1):.0%})"
    return Verdict(target, wanted, f"{value:.2f}{unit}", met, by)
