"""ClickHouse's engine in this process (chdb), with the schema and the queries of deploy/fleet."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

FLEET: Final = Path(__file__).parents[2] / "deploy/fleet/clickhouse"
QUERIES: Final = {file.stem: file for file in sorted((FLEET / "queries").glob("*.sql"))}

_SETTINGS: Final = {
    "max_threads": 2,
    "max_memory_usage": 6 << 30,
    "output_format_json_quote_64bit_integers": 0,
}

Row = list[Any]


class ClickHouse:
    """A server's engine on a directory; a process can have one at a time."""

    def __init__(self, directory: Path) -> None:
        """Raises ImportError where chdb is missing."""
        from chdb.session import Session

        self._session = Session(str(directory))
        for name, value in _SETTINGS.items():
            self.run(f"SET {name} = {value}")

    def load_schema(self) -> None:
        """Create the tables and views, as ``clickhouse-client --multiquery`` does."""
        for statement in statements((FLEET / "schema.sql").read_text(encoding="utf-8")):
            self.run(statement)

    def run(self, sql: str) -> None:
        """Run a statement without a result. Raises RuntimeError."""
        self._session.query(sql)

    def rows(self, sql: str) -> list[Row]:
        """Return the rows of a query. Raises RuntimeError."""
        answer = str(self._session.query(sql, "JSONCompactEachRow"))
        return [json.loads(line) for line in answer.splitlines()]

    def ask(self, name: str, parameters: Mapping[str, str]) -> list[Row]:
        """Return the answer to one of the queries, by the name of its file."""
        for key, value in parameters.items():
            self.run(f"SET param_{key} = '{value}'")
        return self.rows(QUERIES[name].read_text(encoding="utf-8"))

    def close(self) -> None:
        """End the session."""
        self._session.close()


def statements(script: str) -> Iterator[str]:
    """Yield the statements of a script, whose comments have no semicolon at the end of a line."""
    for statement in re.split(r";\s*$", script, flags=re.MULTILINE):
        if re.sub(r"^--.*$", "", statement, flags=re.MULTILINE).strip():
            yield statement
