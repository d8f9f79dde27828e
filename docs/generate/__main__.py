"""``python -m docs.generate`` writes the generated pages; ``--check`` compares them instead.

With ``--check`` nothing is written, and the exit status is 1 when a committed page is not what
would be written.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from docs.generate import (
    audit,
    calls,
    cassettes,
    cel,
    commands,
    example,
    keys,
    man,
    methods,
    metrics,
    recorded_calls,
    report,
)
from docs.generate.markdown import page

DOCS: Final = Path(__file__).resolve().parents[1]

PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "reference/configuration.md": lambda: page(keys.configuration()),
    "reference/rules.md": lambda: page(keys.rules()),
    "reference/cel.md": lambda: page(cel.variables()),
    "reference/metrics.md": lambda: page(metrics.families()),
    "reference/call-log.md": lambda: page(calls.lines()),
    "reference/audit-record.md": lambda: page(audit.records()),
    "reference/command-line.md": lambda: page(commands.reference()),
    "reference/exit-status.md": lambda: page(commands.statuses()),
    "reference/methods.md": lambda: page(methods.methods()),
    "reference/cassettes.md": lambda: page(cassettes.cassettes()),
    "reference/recorded-calls.md": lambda: page(recorded_calls.recorded_calls()),
    "reference/report.md": lambda: page(report.report()),
    "man/criproxy.1": man.manual,
    "../config.example.yaml": example.configuration,
}
"""The generated files, by their paths within ``docs/``."""


def stale() -> list[str]:
    """Return the paths of generated files that are missing or not current."""
    return [
        name
        for name, make in PAGES.items()
        if not (DOCS / name).is_file() or (DOCS / name).read_text(encoding="utf-8") != make()
    ]


def main() -> int:
    """Write the pages, or check them. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Generate the reference pages of docs/.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if stale")
    if parser.parse_args().check:
        found = stale()
        if found:
            print(f"not current: {', '.join(found)}; run `make docs-reference` and commit")
        return 1 if found else 0
    for name, make in PAGES.items():
        (DOCS / name).parent.mkdir(parents=True, exist_ok=True)
        (DOCS / name).write_text(make(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
