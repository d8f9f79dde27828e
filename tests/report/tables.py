"""Tables of calls from lines, for one test."""

import contextlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from criproxy.report.computing.call_table import CallTable


@contextlib.contextmanager
def table_of(*files: Path) -> Iterator[CallTable]:
    """The table of logs."""
    with (
        tempfile.TemporaryDirectory(prefix="crp-") as directory,
        contextlib.closing(CallTable(Path(directory))) as table,
    ):
        table.load(files, lambda percent: None)
        yield table


def write(path: Path, lines: Iterable[Mapping[str, Any]]) -> Path:
    """Write a log; return its path."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
