"""A table of the calls of logs, in a database of DuckDB's that is removed afterwards.

Files are streamed into it: the memory that is taken is bounded, however large they are.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

from criproxy.concurrency.progress import run_with_progress
from criproxy.errors import UnavailableError, UsageError
from criproxy.report.computing.logged_columns import (
    COLUMNS,
    HAS_TIMES,
    IS_CALL,
    STRUCTURE,
    method_values,
)

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_MEMORY: Final = "1GB"
"""What DuckDB may use; what does not fit is written to the directory of the table."""

_THREADS: Final = 4
"""Threads at most: each has a buffer of two of the largest lines."""

_LONGEST_LINES: Final = (16 << 20, 64 << 20)
"""Bytes of the longest line, tried in order: buffers are as large. The audit log's are shorter than
the last."""

_SETTINGS: Final = (
    f"SET memory_limit = '{_MEMORY}'",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET enable_progress_bar = false",
    "SET TimeZone = 'UTC'",
)

_LOAD: Final = """
CREATE OR REPLACE TABLE read AS  -- without a condition: it would parse each line once more
SELECT filename, skipped, {is_call} AS is_call, {columns} FROM (
    SELECT filename, json_type(json) IS DISTINCT FROM 'OBJECT' AS skipped,
        unnest(json_transform(json, '{structure}'))
    FROM read_ndjson_objects([{files}], ignore_errors = true, filename = true,
        maximum_object_size = {longest})
) AS line
"""

_ENDED_LATER: Final = """
running AND (
    audit AND audit_id IN (SELECT audit_id FROM read WHERE audit AND NOT running)
    OR NOT audit AND (listener, pid, service, method, began_at) IN (
        SELECT (listener, pid, service, method, began_at)
        FROM read WHERE reported_slow AND NOT running))
"""
"""Lines about calls in flight whose end has a line of its own."""

_CALLS: Final = """
CREATE TABLE calls AS
SELECT read.* EXCLUDE (filename, skipped, is_call, began_at, audit_id, reported_slow),
    epoch_us(began_at) AS began,
    epoch_us(began_at) + round(duration * 1e6)::BIGINT AS ended,
    coalesce(known.name, 'other') AS label,
    known.api_version,
    coalesce(known.reads, false) AS reads,
    coalesce(known.endless, false) AS endless
FROM read LEFT JOIN known ON known.of_service = read.service AND known.name = read.method
WHERE is_call AND {has_times} AND NOT ({ended_later})
"""

_CREATE_KNOWN: Final = (
    "CREATE TABLE known (of_service VARCHAR, name VARCHAR, api_version VARCHAR, reads BOOLEAN, "
    "endless BOOLEAN)"
)


class Skipped(NamedTuple):
    """The lines that are no JSON objects."""

    lines: int
    file: Path | None
    """The first file that has some."""


class CallTable:
    """The table ``calls``, for queries.

    Its columns are those of :data:`COLUMNS`, with ``began`` and ``ended`` (microseconds since the
    epoch), ``label`` (the method's name, ``other`` outside the CRI), ``api_version`` (NULL there),
    ``reads`` and ``endless``. ``code`` is empty and ``running`` true for a call whose end has no
    line.
    """

    def __init__(self, directory: Path) -> None:
        """``directory`` takes the database, and has to be there until :meth:`close`.

        Raises UnavailableError where DuckDB is missing.
        """
        try:
            import duckdb
        except ImportError as error:
            raise UnavailableError(
                "criproxy report needs DuckDB; install it with: pip install 'criproxy[report]'"
            ) from error
        self._error = duckdb.Error
        self._directory = directory
        self._connection: DuckDBPyConnection = duckdb.connect(str(directory / "calls.db"))
        for setting in _SETTINGS:
            self._connection.execute(setting)
        (threads,) = self.row("SELECT current_setting('threads')")
        self._connection.execute(f"SET threads = {min(int(threads), _THREADS)}")
        self._connection.execute(f"SET temp_directory = {_quoted(str(directory / 'spilled'))}")
        self._connection.execute(_CREATE_KNOWN)
        self._connection.executemany("INSERT INTO known VALUES (?, ?, ?, ?, ?)", method_values())
        self.skipped = Skipped(0, None)
        self.is_recording = False
        """Whether the lines stand for the calls of cassettes."""

    def load(self, files: Sequence[Path], report: Callable[[float], None]) -> None:
        """Read the calls of files into the table, which is done once.

        ``report`` is called with the progress in percent. Raises UsageError for a line that is too
        long, UnavailableError for a file that cannot be read.
        """
        for longest in _LONGEST_LINES:
            try:
                self._read(files, longest, report)
                break
            except self._error as error:
                text = str(error)
                if "maximum_object_size" not in text:
                    raise self._failure(files, text) from error
                if longest == _LONGEST_LINES[-1]:
                    raise UsageError(
                        f"{_named_file(files, text)}: a line is longer than {longest >> 20} MiB; "
                        "name a log that criproxy wrote"
                    ) from error
        self._connection.execute(_CALLS.format(has_times=HAS_TIMES, ended_later=_ENDED_LATER))
        rows = self.rows("SELECT filename, count(*) FROM read WHERE skipped GROUP BY filename")
        counts = dict(rows)
        first = next((file for file in files if counts.get(str(file))), None)
        self.skipped = Skipped(sum(counts.values()), first)
        self._connection.execute("DROP TABLE read")

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        return self._connection.execute(sql, list(parameters)).fetchall()

    def row(self, sql: str, *parameters: Any) -> tuple[Any, ...]:
        """Return the only row of a query."""
        (row,) = self.rows(sql, *parameters)
        return row

    def each(self, sql: str, *parameters: Any) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query, which may be many; no other one may run meanwhile."""
        result = self._connection.execute(sql, list(parameters))
        while rows := result.fetchmany(1000):
            yield from rows

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def _read(self, files: Sequence[Path], longest: int, report: Callable[[float], None]) -> None:
        sql = _LOAD.format(
            columns=", ".join(f'{what} AS "{name}"' for name, what in COLUMNS.items()),
            structure=STRUCTURE,
            files=", ".join(_quoted(_literal_pattern(str(file))) for file in files),
            longest=longest,
            is_call=IS_CALL,
        )
        run_with_progress(
            "read logs",
            lambda: self._connection.execute(sql),
            self._connection.query_progress,
            self._connection.interrupt,
            report,
        )

    def _failure(self, files: Sequence[Path], text: str) -> UnavailableError:
        if "GZIP" in text:
            return UnavailableError(f"{_named_file(files, text)}: is not a whole gzip file")
        if "No space left" in text:
            return UnavailableError(f"{self._directory}: no space left; set TMPDIR to another disk")
        return UnavailableError(f"{_named_file(files, text)}: {' '.join(text.split())}")


def spooled(stream: BinaryIO, directory: Path) -> Path:
    """Copy a stream, which is standard input, to a file in a directory; return the file."""
    file = directory / "stdin"
    with file.open("wb") as copy:
        shutil.copyfileobj(stream, copy, 1 << 20)
    return file


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _literal_pattern(path: str) -> str:
    """Return the pattern that matches a path alone."""
    return re.sub(r"[*?[]", r"[\g<0>]", path)


def _named_file(files: Sequence[Path], text: str) -> Path | str:
    """Return the file that a message of DuckDB's names."""
    return next((file for file in files if str(file) in text), ", ".join(map(str, files)))
