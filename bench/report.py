"""Renders the results as Markdown, for the terminal and RESULTS.md."""

from collections.abc import Iterable, Mapping, Sequence

from bench.contenders import DIRECT
from bench.criproxy_config import AuditCounts
from bench.loads import AUDIT_LOADS, RULE_LOADS
from bench.processes import MIB
from bench.results import Results, Soak, Summary, summarise
from bench.sections import unit_of
from bench.targets import AUDIT_RATIOS, FLAT_MIB, RULE_RATIOS, added, unaccounted, verdicts


def render(results: Results, notes: str) -> str:
    """Return the whole page as Markdown; ``notes`` is what a person has written, or nothing."""
    parts = [
        "# The comparison with other proxies",
        "Written by `make bench`; what is kept by hand is in `NOTES.md` and is quoted below.",
        _machine(results),
        "## Targets",
        _targets(results),
    ]
    if results.skipped:
        parts += ["## Left out", _bullets(results.skipped)]
    for load in results.figures:
        parts += [f"## {load}: {results.titles[load]}", _load(results, load)]
    if "rules-1" in results.figures:
        parts += ["## What rules cost", *_rules(results)]
    if results.recorded:
        parts += ["## What an audit log and traces cost", *_audit(results)]
    parts += ["## Memory", _memory(results)]
    if results.soak:
        parts.append(_soak(results.soak, ""))
    if results.audited_soak:
        recording = " and an audit log of every call's request and response"
        parts.append(_soak(results.audited_soak, recording))
    parts += ["## How it was measured", _method(results)]
    if notes.strip():
        parts.append(notes.strip())
    return "\n\n".join(parts) + "\n"


def _machine(results: Results) -> str:
    facts = {
        **results.facts,
        "date": results.began,
        "took": f"{results.seconds / 60:.1f} minutes",
        "command": f"`{results.command}`",
        **{f"backend, {name}": what for name, what in results.backends.items()},
    }
    return markdown_table(("", ""), facts.items())


def _targets(results: Results) -> str:
    words = {True: "met", False: "**missed**", None: "not measured"}
    return markdown_table(
        ("target", "wanted", "measured", "", "missed by"),
        (
            (one.target, one.limit, one.measured or "-", words[one.met], one.missed_by)
            for one in verdicts(results)
        ),
    )


def _load(results: Results, load: str) -> str:
    summaries = {name: summarise(results, load, name) for name in results.figures[load]}
    unit_name = unit_of(load)
    unit = summaries.get(unit_name)
    direct = summaries.get(DIRECT)
    return markdown_table(
        (
            "",
            "p50 µs",
            "added p50 µs",
            f"x {unit_name}'s",
            "p99 µs",
            "added p99 µs",
            "calls/s",
            "x direct's",
            "CPU µs/call",
            "errors",
        ),
        (
            _row(name, summaries[name], unit, direct)
            for name in (DIRECT, *results.settings)
            if name in summaries
        ),
    )


def _row(
    name: str, summary: Summary | None, unit: Summary | None, direct: Summary | None
) -> Sequence[str]:
    if summary is None:
        return (name, *"--------", "no call was answered")
    proxied = name != DIRECT
    added = f"{summary.added_p50_us / unit.added_p50_us:.2f}" if unit and _positive(unit) else "-"
    share = f"{summary.calls_per_s / direct.calls_per_s:.2f}" if direct else "-"

    return (
        name,
        f"{summary.p50_us:,.0f}",
        f"{summary.added_p50_us:+,.0f}" if proxied else "",
        added if proxied else "",
        f"{summary.p99_us:,.0f}",
        f"{summary.added_p99_us:+,.0f}" if proxied else "",
        f"{summary.calls_per_s:,.0f}",
        share,
        f"{summary.cpu_us:.1f}" if proxied else "",
        _errors(summary.errors, summary.goaways),
    )


def _errors(errors: Mapping[str, int], goaways: int) -> str:
    counts = [f"{count} x {what}" for what, count in errors.items()]
    if goaways:
        counts.append(f"{goaways} x GOAWAY")
    return "; ".join(counts) or "none"


def _positive(summary: Summary) -> bool:
    return summary.added_p50_us > 0


def _rules(results: Results) -> list[str]:
    loads = [part.name for part in RULE_LOADS if part.name in results.figures]
    rows = [
        (
            one.what,
            "added p50" if one.figure is added else "p50",
            one.mine,
            one.other,
            *(_times(one.value(results, load)) for load in loads),
        )
        for one in RULE_RATIOS
    ]
    words = (
        "A call that is denied or ended by a fault never reaches the runtime: its p50 is compared, "
        "and what it adds to direct may be below zero. A delay of 100 % is part of what it adds."
    )
    counts = {name: _counts(one) for name, one in results.rule_counts.items()}
    asked = "What each criproxy counted of its rules, warming up included:\n\n" + _bullets(counts)
    return [
        markdown_table(("", "figure", "", "beside", *loads), rows),
        words,
        *([asked] * bool(counts)),
    ]


def _audit(results: Results) -> list[str]:
    loads = [one.name for one in AUDIT_LOADS if one.name in results.figures]
    rows = [
        (one.what, figure, one.mine, one.other, *(_times(ratio(results, load)) for load in loads))
        for one in AUDIT_RATIOS
        for figure, ratio in (("added p50", one.added), ("calls/s", one.throughput))
    ]
    words = (
        "Records are made and written while the calls go on, and after them: a contender's CPU per "
        "call goes on until it is idle again."
    )
    wrong = "; ".join(unaccounted(results)) or "every call is accounted for"
    counts = {name: _records(one) for name, one in results.recorded.items()}
    asked = f"What became of the records after the rounds ({wrong}):\n\n{_bullets(counts)}"
    return [markdown_table(("", "figure", "", "beside", *loads), rows), words, asked]


def _records(found: AuditCounts) -> str:
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in found.dropped.items())
    return (
        f"{found.calls:,} calls, {found.wanted:,} of them to be recorded; "
        f"{found.records:,} records in the files, dropped: {dropped or 'none'}"
    )


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} x"


def _counts(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{count:,} {what}" for what, count in counts.items()) or "nothing"


def _memory(results: Results) -> str:
    return markdown_table(
        ("", "resident, idle, MiB", "after the rounds, MiB", "PSS then, MiB"),
        (
            (name, *(f"{each / MIB:.1f}" for each in (memory.idle, memory.after, memory.together)))
            for name, memory in results.memory.items()
        ),
    )


def _soak(soak: Soak, besides: str) -> str:
    calls = soak.samples[-1][0]
    lines = [
        f"{calls:,} calls on one connection, 16 at once, through criproxy with everything on"
        f"{besides}: {soak.calls_per_s:,.0f} calls/s, "
        f"errors: {_errors(soak.errors, 0)}; {soak.seen.counted:,} calls counted in its metrics, "
        f"{soak.seen.logged:,} in its log (a few are the bench's own probes). Resident: "
        f"{soak.idle / MIB:.1f} MiB idle; flat means at most {FLAT_MIB:g} MiB more at the end "
        "than after the first tenth.",
    ]
    if soak.recorded:
        lines.append(f"Its audit log: {_records(soak.recorded)}.")
    step = max(1, len(soak.samples) // 10)
    samples = soak.samples[step - 1 :: step]
    memory = markdown_table(
        ("calls", "resident, MiB"),
        ((f"{done:,}", f"{resident / MIB:.1f}") for done, resident in samples),
    )
    return "\n\n".join([*lines, memory])


def _method(results: Results) -> str:
    own = summarise(results, "go-16", DIRECT)
    words = [
        "Every contender has a turn under each load in every round (several short ones where rules "
        "and audit logs are compared), in an order drawn each time. Figures are medians of the "
        "turns; what is added is taken against direct in the same turn; CPU per call is user and "
        "system time of the contender's processes, all rounds together.",
        "The changing-header loads (go-*, list-*, rules-*, audit-*) are made by `bench/load.py`: "
        "grpc-go's frames around each call, its header compression, another grpc-timeout each "
        "time; each answer is compared byte by byte and by its status. h2load repeats one header "
        "block and checks the HTTP status alone. Generator, contender and runtime share the "
        "machine.",
    ]
    if own:
        words.append(
            f"The generator's own cost: {own.own_cpu_us:.1f} µs of CPU a call, direct, 16 at once."
        )
    for path, seen in results.seen.items():
        words.append(
            f"criproxy with everything on had counted {seen.counted:,} calls and logged "
            f"{seen.logged:,} after the rounds of `{path}`."
        )
    settings = {
        name: f"{what}. {results.versions.get(name, '')}" for name, what in results.settings.items()
    }
    return "\n\n".join([*words, _bullets(settings)])


def _bullets(items: dict[str, str]) -> str:
    return "\n".join(f"- {name}: {what}" for name, what in items.items())


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a Markdown table so that it also reads well as plain text."""
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(header))]
    rule = tuple("-" * width for width in widths)
    lines.insert(1, rule)
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )
