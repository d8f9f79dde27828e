"""The sections of a report on calls, as texts and tables. Pure."""

from collections.abc import Sequence

from criproxy.report.figures import Change, Comparison, Report, SlowCall
from criproxy.report.forms import words
from criproxy.report.forms.section import Section, sizes_section, some, source_section


def call_sections(report: Report) -> list[Section]:
    """Return the sections of a report on calls."""
    comparison = [] if report.comparison is None else [_comparison(report.comparison)]
    return [
        source_section(report.source, report.notes),
        *comparison,
        _methods(report),
        _pod_starts(report),
        Section(
            "slowest", "Slowest calls", (), some(_SLOW_HEADER, map(_slow_call, report.slowest))
        ),
        _errors(report),
        _in_flight(report),
        _polling(report),
        _callers(report),
        sizes_section(report.sizes),
    ]


def _comparison(comparison: Comparison) -> Section:
    changed = [each for each in comparison.changes if each.verdict in ("slower", "faster")]
    before = comparison.before
    text = [
        f"Against {words.plural(before.calls, 'call')} from {words.time(before.began)} to "
        f"{words.time(before.ended)} UTC ({', '.join(map(words.name, before.files))}). Calls that "
        "ended with OK are compared.",
        *map(_change_in_words, changed),
    ]
    if not changed:
        text.append("No method became slower or faster, as far as the calls can tell.")
    text.append(
        f"Intervals of {words.share(comparison.confidence)}, by the bootstrap over time slices; "
        f"changes below {words.share(comparison.least_change)} count as none."
    )
    changes = some(
        (
            "Method",
            "Quantile",
            "Before #",
            "After #",
            "Ratio #",
            "Interval #",
            "Calls #",
            "Verdict",
        ),
        (
            (
                each.method,
                each.quantile,
                words.duration(each.before_s),
                words.duration(each.after_s),
                f"{each.ratio:.2f}",
                _interval(each),
                f"{words.count(each.before_calls)} / {words.count(each.after_calls)}",
                each.verdict,
            )
            for each in comparison.changes
        ),
    )
    rates = some(
        ("Method", "Failed before #", "Failed after #"),
        (
            (each.method, words.share(each.before), words.share(each.after))
            for each in comparison.error_rates
        ),
    )
    return Section("comparison", "Slower and faster", text, [*changes, *rates])


def _change_in_words(change: Change) -> str:
    factor = change.ratio if change.verdict == "slower" else 1 / change.ratio
    return (
        f"{change.method} became {change.verdict}: {change.quantile} "
        f"{words.duration(change.before_s)} before, {words.duration(change.after_s)} after, "
        f"{factor:.2f} times as {'slow' if change.verdict == 'slower' else 'fast'} "
        f"(ratio {_interval(change)})."
    )


def _interval(change: Change) -> str:
    if change.low is None or change.high is None:
        return words.NOTHING
    return f"{change.low:.2f} to {change.high:.2f}"


def _methods(report: Report) -> Section:
    slice_ = words.duration(report.slice_s)
    text = [f"The heat map has the p95 latency of the calls that began in each {slice_}."]
    if any(each.endless for each in report.methods):
        text.append("Event streams last until a side ends them; they have no latency.")
    return Section(
        "methods",
        "Latency by method",
        text,
        some(
            (
                *("Method", "Calls #", "Per second #", "Errors #", "No end #", "p50 #", "p95 #"),
                *("p99 #", "Longest #", "Total #"),
            ),
            (
                (
                    each.method,
                    words.count(each.calls),
                    words.rate(each.per_second),
                    words.count(each.errors),
                    words.count(each.unended),
                    *(
                        words.NOTHING if each.endless else words.duration(value)
                        for value in (each.p50_s, each.p95_s, each.p99_s)
                    ),
                    words.duration(each.longest_s),
                    words.duration(each.total_s),
                )
                for each in report.methods
            ),
        ),
    )


def _pod_starts(report: Report) -> Section:
    starts = report.pod_starts
    text = [f"{words.plural(starts.starts, 'start')}{_numbers(starts.states)}."]
    if starts.causes:
        text.append(f"What took the longest, or keeps them from ending{_numbers(starts.causes)}.")
    if len(starts.slowest) < starts.starts:
        text.append(f"The {len(starts.slowest)} slowest:")
    if starts.unnamed:
        text.append(f"{words.plural(starts.unnamed, 'call')} of starts do not name their pod.")
    if starts.dropped:
        text.append(f"{words.plural(starts.dropped, 'call')} of pods with too many are left out.")
    return Section(
        "pod_starts",
        "Pod starts",
        text,
        some(
            ("Began", "Node", "Pod", "State", "Total #", "Cause"),
            (
                (
                    words.time(each["began"]),
                    words.name(each.get("node", "")),
                    words.name(f"{each['namespace']}/{each['pod']}"),
                    each["state"],
                    words.duration(each["seconds"]),
                    words.name(each["cause"]["text"]),
                )
                for each in starts.slowest
            ),
        ),
    )


def _numbers(named: dict[str, int]) -> str:
    found = sorted(named.items(), key=lambda item: (-item[1], item[0]))
    return ": " + ", ".join(f"{words.count(n)} {name}" for name, n in found) if found else ""


_SLOW_HEADER = ("Began", "Method", "Code", "Duration #", "Held by rules #", "Caller", "About")


def _slow_call(call: SlowCall) -> Sequence[str]:
    pod = "/".join(filter(None, (call.namespace, call.pod, call.container)))
    held = f"{words.duration(call.held_s)} ({', '.join(call.rules)})" if call.held_s else ""
    return (
        words.time(call.began),
        words.name(call.method),
        call.code or "no end",
        words.duration(call.duration_s),
        words.name(held),
        words.name(call.executable),
        words.name(" ".join(filter(None, (pod, call.image)))),
    )


def _errors(report: Report) -> Section:
    return Section(
        "errors",
        "Errors",
        [] if report.errors else ["No call failed."],
        some(
            ("Method", "Code", "Message", "Calls #", "First", "Last", "For example"),
            (
                (
                    each.method,
                    each.code,
                    words.name(each.message),
                    words.count(each.calls),
                    words.time(each.first),
                    words.time(each.last),
                    words.name(each.example),
                )
                for each in report.errors
            ),
        ),
    )


def _in_flight(report: Report) -> Section:
    most = max(report.in_flight, key=lambda each: each.most)
    return Section(
        "in_flight",
        "Calls in flight",
        [
            f"At most {words.plural(most.most, 'call')} at once, in the "
            f"{words.duration(report.slice_s)} from {words.time(most.began)} UTC. Event streams do "
            "not count."
        ],
    )


def _polling(report: Report) -> Section:
    return Section(
        "polling",
        "Polling",
        ["Reads by method and caller. In flight is the number of these calls on average."],
        some(
            ("Method", "Caller", "Calls #", "Of all #", "Per second #", "In flight #", "Bytes/s #"),
            (
                (
                    each.method,
                    words.name(each.executable),
                    words.count(each.calls),
                    words.share(each.share),
                    words.rate(each.per_second),
                    f"{each.busy:.3g}",
                    words.size(each.response_bytes_per_second),
                )
                for each in report.polling
            ),
        ),
    )


def _callers(report: Report) -> Section:
    return Section(
        "callers",
        "Callers",
        [],
        some(
            ("Executable", "Calls #", "Per second #", "Errors #", "Mutating #", "Total #", "Most"),
            (
                (
                    words.name(each.executable),
                    words.count(each.calls),
                    words.rate(each.per_second),
                    words.count(each.errors),
                    words.count(each.mutating),
                    words.duration(each.total_s),
                    ", ".join(each.methods),
                )
                for each in report.callers
            ),
        ),
    )
