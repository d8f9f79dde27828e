"""A section of a report, and those that both reports have. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from criproxy.report.figures import MessageSize, Source
from criproxy.report.forms import words

Rows = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a header; columns whose names end in ``#`` are numbers."""

    header: Sequence[str]
    rows: Rows


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a report: ``key`` identifies it, ``text`` has its paragraphs."""

    key: str
    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = field(default_factory=list)


def some(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[Table]:
    """Return a table, or none where it would have no rows."""
    found = list(rows)
    return [Table(header, found)] if found else []


def source_section(source: Source, notes: Sequence[str]) -> Section:
    """Return the section about what was read."""
    files = ", ".join(map(words.name, source.files))
    summary = (
        f"{words.plural(source.calls, 'call')} in {words.duration(source.seconds)}, from "
        f"{words.time(source.began)} to {words.time(source.ended)} UTC, by the {source.log} "
        f"{files}."
    )
    nodes = [f"Nodes: {', '.join(map(words.name, source.nodes))}."] if source.nodes else []
    return Section("source", "Source", [summary, *nodes, *notes])


def sizes_section(sizes: Sequence[MessageSize]) -> Section:
    """Return the section about the sizes of messages."""
    text = [
        "A kubelet receives messages of at most 16 MiB, and containerd does by default. Sizes are "
        "those on the wire."
    ]
    if any(each.streamed for each in sizes):
        text.append("Of a call with several messages (*) the log has the sum; the mean counts.")
    if not sizes:
        text.append("The log has no sizes.")
    return Section(
        "sizes",
        "Message sizes",
        text,
        some(
            ("Method", "Direction", "Calls #", "Mean #", "Largest #", "Of the limit #"),
            (
                (
                    each.method,
                    f"{each.direction}{' *' if each.streamed else ''}",
                    words.count(each.calls),
                    words.size(each.mean_bytes),
                    words.size(each.largest_bytes),
                    words.share(each.share),
                )
                for each in sizes
            ),
        ),
    )
