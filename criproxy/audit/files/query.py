"""Runs SQL queries over audit logs with DuckDB, rotated and compressed files included.

A query can neither write nor read any other file: DuckDB's access to them is switched off.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from criproxy.concurrency import progress
from criproxy.configtypes.values import parse_duration
from criproxy.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    import duckdb

COLUMNS: Final[Mapping[str, str]] = {
    "time": "try_cast(rtrim(json->>'$.stageTimestamp', 'Z') AS TIMESTAMP_NS)",
    "began": "try_cast(rtrim(json->>'$.requestReceivedTimestamp', 'Z') AS TIMESTAMP_NS)",
    "kind": "json->>'$.kind'",
    "level": "json->>'$.level'",
    "stage": "json->>'$.stage'",
    "audit_id": "json->>'$.auditID'",
    "node": "json->>'$.node'",
    "listener": "json->>'$.listener'",
    "executable": "json->>'$.caller.executable'",
    "command": "json->'$.caller.command'",
    "pid": "try_cast(json->>'$.caller.pid' AS BIGINT)",
    "uid": "try_cast(json->>'$.caller.uid' AS BIGINT)",
    "gid": "try_cast(json->>'$.caller.gid' AS BIGINT)",
    "unit": "json->>'$.caller.unit'",
    "kubelet": "try_cast(json->>'$.caller.kubelet' AS BOOLEAN)",
    "caller_namespace": "json->>'$.caller.container.podNamespace'",
    "caller_pod": "json->>'$.caller.container.podName'",
    "caller_container": "json->>'$.caller.container.id'",
    "service": "json->>'$.service'",
    "method": "json->>'$.method'",
    "cri_version": "json->>'$.criVersion'",
    "namespace": "json->>'$.pod.namespace'",
    "pod": "json->>'$.pod.name'",
    "pod_id": "json->>'$.pod.id'",
    "pod_uid": "json->>'$.pod.uid'",
    "container": "json->>'$.container.name'",
    "container_id": "json->>'$.container.id'",
    "image": "coalesce(json->>'$.image', json->>'$.container.image')",
    "code": "json->>'$.code'",
    "exit_code": "try_cast(json->>'$.exitCode' AS BIGINT)",
    "message": "json->>'$.message'",
    "duration": "try_cast(json->>'$.durationSeconds' AS DOUBLE)",
    "request_bytes": "try_cast(json->>'$.requestBytes' AS BIGINT)",
    "response_bytes": "try_cast(json->>'$.responseBytes' AS BIGINT)",
    "rules": "json->'$.rules'",
    "changes": "json->'$.changes'",
    "denied": "json->>'$.denied'",
    "reason": "coalesce(json->>'$.reason', json->>'$.reasons')",
    "dropped": "try_cast(json->>'$.dropped' AS BIGINT)",
    "request": "json->'$.requestObject'",
    "response": "coalesce(json->'$.responseObject', json->'$.responseObjects')",
    "record": "json",
}
"""The columns of the view ``audit``, and their expressions over a record.

Times are UTC, ``duration`` is in seconds; ``command``, ``rules``, ``changes``, ``request``,
``response`` and ``record`` are JSON.
"""

_LARGEST: Final = 64 << 20
"""Bytes of the largest record that can be read."""

_SETTINGS: Final = (
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET temp_directory = ''",
    "SET allowed_paths = {paths}",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


class QueryResult(NamedTuple):
    """The result of a query."""

    columns: list[str]
    rows: Iterator[tuple[Any, ...]]


class AuditLog:
    """Runs queries over the files of an audit log."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Create the views. Raises UnavailableError where DuckDB is missing."""
        try:
            import duckdb
        except ImportError as error:
            raise UnavailableError(
                "criproxy audit query needs DuckDB; install it with: pip install 'criproxy[query]'"
            ) from error
        self._error = duckdb.Error
        self._files = [str(path.absolute()) for path in files]
        self._connection: duckdb.DuckDBPyConnection = duckdb.connect(":memory:")
        paths = "[" + ", ".join(map(_quote, self._files)) + "]"
        source = (
            f"read_ndjson_objects({paths}, ignore_errors = true, maximum_object_size = {_LARGEST})"
        )
        for setting in _SETTINGS:
            self._connection.execute(setting.format(paths=paths))
        columns = ", ".join(f'{what} AS "{name}"' for name, what in COLUMNS.items())
        self._connection.execute(f"CREATE VIEW lines AS SELECT json FROM {source}")  # noqa: S608
        self._connection.execute(
            f"CREATE VIEW audit AS SELECT {columns} FROM lines WHERE json_type(json) = 'OBJECT'"  # noqa: S608
        )

    def execute(self, sql: str) -> QueryResult:
        """Run one SELECT over the view ``audit`` (:data:`COLUMNS`). Raises UsageError for bad SQL.

        :meth:`progress` may be called from another thread meanwhile.
        """
        try:
            statements = self._connection.extract_statements(sql)
            # DuckDB allows to write what may be read: COPY could overwrite the log.
            if [each.type.name for each in statements] != ["SELECT"]:
                raise UsageError("one SELECT is asked for, and nothing that changes anything")
            result = self._connection.execute(statements[0])
        except self._error as error:
            raise UsageError(_error_text(error)) from error
        columns = [column[0] for column in result.description or ()]
        return QueryResult(columns, self._rows(result))

    def skipped(self) -> int:
        """Return the number of lines that are no JSON objects."""
        (count,) = self._connection.execute(
            "SELECT count(*) FROM lines WHERE json IS NULL OR json_type(json) <> 'OBJECT'"
        ).fetchone() or (0,)
        return int(count)

    def progress(self) -> float:
        """Return the progress of the running query in percent; negative: unknown."""
        return float(self._connection.query_progress())

    def interrupt(self) -> None:
        """Cancel the running query."""
        self._connection.interrupt()

    def _rows(self, result: "duckdb.DuckDBPyConnection") -> Iterator[tuple[Any, ...]]:
        while True:
            try:
                rows = result.fetchmany(1000)
            except self._error as error:
                raise UsageError(_error_text(error)) from error
            if not rows:
                return
            yield from rows


def run_with_progress(log: AuditLog, sql: str, report: Callable[[float], None]) -> QueryResult:
    """Run a query on a thread, and call ``report`` with its progress in percent meanwhile."""
    return progress.run_with_progress(
        "audit query", lambda: log.execute(sql), log.progress, log.interrupt, report
    )


def build_query(
    columns: Sequence[str],
    where: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int | None,
) -> str:
    """Return the SQL that selects columns of the records matching the conditions.

    ``where`` is the user's own SQL: AuditLog limits what it can reach.
    """
    conditions = [f"({where}\n)"] if where else []
    conditions += [f"time >= {_sql_time(since)}"] if since else []
    conditions += [f"time < {_sql_time(until)}"] if until else []
    sql = f"SELECT {', '.join(columns)} FROM audit"  # noqa: S608
    if conditions:
        sql += " WHERE " + " AND ".join(conditions)
    return sql if limit is None else f"{sql} LIMIT {limit}"


def parse_time(text: str, now: datetime) -> datetime:
    """Parse an age (``1h``) or an RFC 3339 time (UTC without a zone). Raises ValueError."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        try:
            return datetime.fromtimestamp(now.timestamp() - parse_duration(text), UTC)
        except ValueError:
            remedy = "write how long ago (90s, 1h) or a time (2026-11-23T10:00:00Z)"
            raise ValueError(f"{text!r} is no time; {remedy}") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _sql_time(at: datetime) -> str:
    return f"TIMESTAMP_NS {_quote(at.strftime('%Y-%m-%d %H:%M:%S.%f'))}"


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _error_text(error: Exception) -> str:
    first = " ".join(str(error).split("\n\n")[0].split("LINE 1:")[0].split())
    return f"{first}; the columns are {', '.join(COLUMNS)}" if "Binder" in first else first
