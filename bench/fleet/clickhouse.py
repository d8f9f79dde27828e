"""ClickHouse with the schema and the queries of deploy/fleet."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

_ROOT: Final = Path(__file__).parents[2]
FLEET: Final = _ROOT / "deploy/fleet/clickhouse"
QUERIES: Final = {file.stem: file for file in sorted((FLEET / "queries").glob("*.sql"))}

_SETTINGS: Final = {
    "max_threads": 2,
    "max_memory_usage": 6 << 30,
    "output_format_json_quote_64bit_integers": 0,
}

Row = list[Any]


class ClickHouseError(Exception):
    """A statement failed, or the engine ended."""


class ClickHouse:
    """A server's engine on a directory, in a process of its own; a context manager."""

    def __init__(self, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.fleet.engine", str(directory)],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, value in _SETTINGS.items():
            self.run(f"SET {name} = {value}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def cpu_seconds(self) -> float:
        """Return the CPU time that the engine has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def load_schema(self) -> None:
        """Create the tables and views, as ``clickhouse-client --multiquery`` does."""
        for statement in statements((FLEET / "schema.sql").read_text(encoding="utf-8")):
            self.run(statement)

    def run(self, sql: str) -> str:
        """Run a statement, and return what it prints. Raises ClickHouseError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps(sql), file=self._process.stdin, flush=True)
        except BrokenPipeError as error:
            raise ClickHouseError("the engine has ended") from error
        line = self._process.stdout.readline()
        if not line:
            raise ClickHouseError("the engine has ended")
        answer = json.loads(line)
        if "error" in answer:
            raise ClickHouseError(answer["error"])
        text: str = answer["text"]
        return text

    def rows(self, sql: str) -> list[Row]:
        """Return the rows of a query. Raises ClickHouseError."""
        return [json.loads(line) for line in self.run(sql).splitlines()]

    def ask(self, name: str, parameters: Mapping[str, str]) -> list[Row]:
        """Return the answer to one of the queries, by the name of its file."""
        for key, value in parameters.items():
            self.run(f"SET param_{key} = '{value}'")
        return self.rows(QUERIES[name].read_text(encoding="utf-8"))


def statements(script: str) -> Iterator[str]:
    """Yield the statements of a script; no line of a comment ends with a semicolon."""
    for statement in re.split(r";\s*$", script, flags=re.MULTILINE):
        if re.sub(r"^--.*$", "", statement, flags=re.MULTILINE).strip():
            yield statement
