"""The result of a section, and the page with all results."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.report import markdown_table

INTRODUCTION: Final = """\
# Reliability

What happens to a kubelet-like client while criproxy is restarted, upgraded, reloaded, killed,
attacked, or loses its runtime. Written by `make chaos`; each section says when and how it was run.
The client is grpcio's with `grpc.default_authority=localhost`: it reconnects as a kubelet does, and
a call that does not end within a minute counts as hung. All processes share one machine.
"""


class Verdict(msgspec.Struct, frozen=True):
    """A claim, what was measured, and whether it holds."""

    claim: str
    measured: str
    holds: bool


class Report(msgspec.Struct, frozen=True):
    """The result of a section: a table, and verdicts on its claims."""

    name: str
    title: str
    about: str
    header: list[str]
    rows: list[list[str]]
    verdicts: list[Verdict]
    seconds: float = 0.0
    machine: str = ""

    @property
    def failed(self) -> list[Verdict]:
        """The claims that do not hold."""
        return [each for each in self.verdicts if not each.holds]


def render(reports: Iterable[Report]) -> str:
    """Return the page as Markdown."""
    found = list(reports)
    parts = [INTRODUCTION]
    rows = [
        (each.name, verdict.claim, verdict.measured, "yes" if verdict.holds else "NO")
        for each in found
        for verdict in each.verdicts
    ]
    parts.append(markdown_table(("section", "claim", "measured", "holds"), rows))
    for each in found:
        parts += [f"## {each.title}", each.about]
        if each.rows:
            parts.append(markdown_table(each.header, each.rows))
        parts.append(f"{each.machine}, {each.seconds:.0f} s.")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def merge(file: Path, reports: Sequence[Report], order: Sequence[str]) -> list[Report]:
    """Replace sections in a file of results by new ones; return all, in the given order."""
    kept = msgspec.json.decode(file.read_bytes(), type=list[Report]) if file.exists() else []
    by_name = {each.name: each for each in [*kept, *reports]}
    merged = [by_name[name] for name in order if name in by_name]
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(merged), indent=1))
    return merged
