"""Questions about audit records, in SQL: DuckDB reads the files, rotated and compressed ones too.

Nothing is written, and no other file can be read: what a question could do to that is switched off.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, NamedTuple

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
"""The columns of the view ``audit``, and what of a record each is.

Times are UTC, ``duration`` is in seconds; ``command``, ``rules``, ``changes``, ``request``,
``response`` and ``record`` are JSON.
"""

_LARGEST: Final = 64 << 20
"""Bytes of a record that can be read."""

_STEP: Final = 0.2
"""Seconds between looks at how far a question has got."""

_SETTINGS: Final = (
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET temp_directory = ''",
    "SET allowed_paths = {paths}",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


class QueryResult(NamedTuple):
    """What has come of a question."""

    columns: list[str]
    rows: Iterator[tuple[Any, ...]]


class AuditLog:
    """Files of an audit log that questions can be asked about."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Raises UnavailableError where DuckDB is missing."""
        try:
            import duckdb
        except ImportError as error:
            raise UnavailableError(
                "criproxy audit query needs DuckDB; install it with: pip install 'criproxy[query]'"
            ) from error
        self._error = duckdb.Error
        self._files = [str(path.absolute()) for path in files]
        self._connection: duckdb.DuckDBPyConnection = duckdb.connect(":memory:")
        paths = "[" + ", ".join(map(_quoted, self._files)) + "]"
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

    def ask(self, sql: str) -> QueryResult:
        """Answer a question; see :data:`COLUMNS`. Raises UsageError for SQL that is none.

        :meth:`progress` may be asked from another thread meanwhile.
        """
        try:
            statements = self._connection.extract_statements(sql)
            # The paths that may be read may be written as well: by COPY, for one.
            if [each.type.name for each in statements] != ["SELECT"]:
                raise UsageError("one SELECT is asked for, and nothing that changes anything")
            result = self._connection.execute(statements[0])
        except self._error as error:
            raise UsageError(_told(error)) from error
        columns = [column[0] for column in result.description or ()]
        return QueryResult(columns, self._rows(result))

    def skipped(self) -> int:
        """Count the lines that are no records: torn ones, and what is no JSON object."""
        (count,) = self._connection.execute(
            "SELECT count(*) FROM lines WHERE json IS NULL OR json_type(json) <> 'OBJECT'"
        ).fetchone() or (0,)
        return int(count)

    def progress(self) -> float:
        """Return how much of a question is answered, in percent; negative: not known."""
        return float(self._connection.query_progress())

    def interrupt(self) -> None:
        """Give up the question that is being answered."""
        self._connection.interrupt()

    def _rows(self, result: "duckdb.DuckDBPyConnection") -> Iterator[tuple[Any, ...]]:
        while True:
            try:
                rows = result.fetchmany(1000)
            except self._error as error:
                raise UsageError(_told(error)) from error
            if not rows:
                return
            yield from rows


def watched(log: AuditLog, sql: str, tell: Any) -> QueryResult:
    """Answer a question, and ``tell`` every now and then how far that has got, in percent."""
    outcome: list[QueryResult | BaseException] = []

    def work() -> None:
        try:
            outcome.append(log.ask(sql))
        except BaseException as error:
            outcome.append(error)

    thread = Thread(target=work, name="audit query")
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_STEP)
            tell(log.progress())
    except BaseException:
        log.interrupt()
        thread.join()
        raise
    (answer,) = outcome
    if isinstance(answer, BaseException):
        raise answer
    return answer


def question(
    columns: Sequence[str],
    where: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int | None,
) -> str:
    """Write the SQL for some columns of the records that fit.

    It is the user's own: what it can reach has been bounded before.
    """
    conditions = [f"({where}\n)"] if where else []
    conditions += [f"time >= {_time(since)}"] if since else []
    conditions += [f"time < {_time(until)}"] if until else []
    sql = f"SELECT {', '.join(columns)} FROM audit"  # noqa: S608
    if conditions:
        sql += " WHERE " + " AND ".join(conditions)
    return sql if limit is None else f"{sql} LIMIT {limit}"


def moment(text: str, now: datetime) -> datetime:
    """Read a time: how long ago (``1h``), or RFC 3339 (UTC where it names no zone).

    Raises ValueError, saying how to write one.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        try:
            return datetime.fromtimestamp(now.timestamp() - parse_duration(text), UTC)
        except ValueError:
            mend = "write how long ago (90s, 1h) or a time (2026-11-23T10:00:00Z)"
            raise ValueError(f"{text!r} is no time; {mend}") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _time(at: datetime) -> str:
    return f"TIMESTAMP_NS {_quoted(at.strftime('%Y-%m-%d %H:%M:%S.%f'))}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _told(error: Exception) -> str:
    first = " ".join(str(error).split("\n\n")[0].split("LINE 1:")[0].split())
    return f"{first}; the columns are {', '.join(COLUMNS)}" if "Binder" in first else first
