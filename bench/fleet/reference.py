"""What DuckDB says to the questions of deploy/fleet, of the same rows.

The queries of reference/ are written for the rows of calls alone, with none of ClickHouse's views.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import duckdb

from bench.fleet.clickhouse import ClickHouse, Row
from criproxy.cri.methods import ENDLESS, READS

_REFERENCE: Final = Path(__file__).parent / "reference"

_ROUNDED: Final = """
CREATE VIEW rounded AS
SELECT *, (duration_us + step - 1) // step * step AS up_to_us
FROM (
    SELECT *,
        greatest((1::BIGINT << greatest(length(bin(duration_us::BIGINT)) - 1, 0)) // 8, 1) AS step
    FROM calls
)
"""


class Reference:
    """The rows of a ClickHouse, in DuckDB."""

    def __init__(self, clickhouse: ClickHouse, directory: Path, memory: str = "4GB") -> None:
        """Export the rows to Parquet files in ``directory``, which takes them and what DuckDB
        spills; ``memory`` is what DuckDB may use."""
        self._connection = duckdb.connect()
        self._connection.execute("SET TimeZone = 'UTC'")
        self._connection.execute(f"SET memory_limit = '{memory}'")
        self._connection.execute(f"SET temp_directory = '{directory / 'spilled'}'")
        for table in ("calls", "runtimes"):
            file = directory / f"{table}.parquet"
            clickhouse.run(
                f"SELECT * FROM criproxy.{table} INTO OUTFILE '{file}' FORMAT Parquet "
                "SETTINGS output_format_parquet_string_as_string = 1"
            )
            columns = self._connection.execute(f"DESCRIBE SELECT * FROM '{file}'").fetchall()
            chosen = ", ".join(_converted(name, kind) for name, kind, *_ in columns)
            self._connection.execute(f"CREATE VIEW {table} AS SELECT {chosen} FROM '{file}'")
        self._connection.execute(_ROUNDED)
        self._connection.execute("CREATE TABLE reads (method VARCHAR)")
        ending = READS - {name.decode() for name in ENDLESS}
        self._connection.executemany("INSERT INTO reads VALUES (?)", [[each] for each in ending])

    def ask(self, name: str, parameters: Mapping[str, str]) -> list[Row]:
        """Return the answer to a question, by the name of its file."""
        sql = (_REFERENCE / f"{name}.sql").read_text(encoding="utf-8")
        used = {key: value for key, value in parameters.items() if f"${key}" in sql}
        return [list(row) for row in self._connection.execute(sql, used).fetchall()]

    def close(self) -> None:
        """Close the database."""
        self._connection.close()


def _converted(name: str, kind: str) -> str:
    """Return the SQL of a column with DuckDB's signed numbers, and times in UTC."""
    if kind.startswith("U"):
        return f"{name}::BIGINT AS {name}"
    return f"{name}::TIMESTAMP AS {name}" if kind == "TIMESTAMP WITH TIME ZONE" else name


def comparable(rows: list[Row]) -> list[Row]:
    """Return rows of either engine so that the same ones are equal: times are datetimes."""
    return [[_value(each) for each in row] for row in rows]


def _value(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?", value):
        return datetime.fromisoformat(value)
    return value
