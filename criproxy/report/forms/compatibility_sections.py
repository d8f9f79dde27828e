"""The sections of a compatibility report, as texts and tables. Pure."""

from criproxy.report.figures import Compatibility
from criproxy.report.forms import words
from criproxy.report.forms.section import Section, sizes_section, some, source_section


def compatibility_sections(report: Compatibility) -> list[Section]:
    """Return the sections of a compatibility report."""
    return [
        source_section(report.source, report.notes),
        Section(
            "api_versions",
            "API versions",
            [],
            some(
                ("Version", "Caller", "Calls #", "First", "Last"),
                (
                    (
                        each.api_version or "outside the CRI",
                        words.name(each.executable),
                        words.count(each.calls),
                        words.time(each.first),
                        words.time(each.last),
                    )
                    for each in report.api_versions
                ),
            ),
        ),
        Section(
            "unimplemented",
            "Methods that the runtime does not implement",
            [] if report.unimplemented else ["No call was answered UNIMPLEMENTED."],
            some(
                ("Method", "Caller", "UNIMPLEMENTED #", "Other answers #", "Last", "Consequence"),
                (
                    (
                        words.name(f"{each.service}/{each.method}"),
                        words.name(each.executable),
                        words.count(each.calls),
                        words.count(each.answered),
                        words.time(each.last),
                        each.consequence or words.NOTHING,
                    )
                    for each in report.unimplemented
                ),
            ),
        ),
        Section(
            "features",
            "EventedPLEG and streamed lists",
            [
                "EventedPLEG is in use if GetContainerEvents is: a kubelet gives it up after five "
                "streams that broke, and a streamed list after one UNIMPLEMENTED, until it "
                "restarts.",
                "A stream that is open has no line yet: it may be in use where it is not seen.",
            ],
            some(
                ("Method", "State", "Calls #", "Broken #", "Longest #", "Last", "Used instead"),
                (
                    (
                        each.method,
                        each.state,
                        words.count(each.calls),
                        words.count(each.broken),
                        words.duration(each.longest_s if each.calls else None),
                        words.time(each.last),
                        ", ".join(f"{name} {words.count(n)}" for name, n in each.instead.items())
                        or words.NOTHING,
                    )
                    for each in report.features
                ),
            ),
        ),
        sizes_section(report.sizes),
        Section(
            "other_methods",
            "Methods outside the CRI",
            []
            if report.other_methods
            else ["Every method is one of the CRI that this criproxy knows."],
            some(
                ("Method", "Caller", "Calls #", "Errors #", "Last"),
                (
                    (
                        words.name(f"{each.service}/{each.method}"),
                        words.name(each.executable),
                        words.count(each.calls),
                        words.count(each.errors),
                        words.time(each.last),
                    )
                    for each in report.other_methods
                ),
            ),
        ),
        _fields(report),
    ]


def _fields(report: Compatibility) -> Section:
    text = [report.unknown_fields]
    if report.deprecated is None:
        text.append(
            "Deprecated fields cannot be told either: no request that may have some is recorded; "
            "an audit log at level Request has them."
        )
    elif not report.deprecated:
        text.append("No request has a deprecated field.")
    return Section(
        "fields",
        "Fields",
        text,
        [
            *some(
                ("Method", "Deprecated field", "Calls #"),
                (
                    (each.method, each.field, words.count(each.calls))
                    for each in report.deprecated or ()
                ),
            ),
            *some(
                ("Method", "Unreadable", "Reason", "Calls #"),
                (
                    (each.method, each.direction, words.name(each.reason), words.count(each.calls))
                    for each in report.unreadable
                ),
            ),
        ],
    )
