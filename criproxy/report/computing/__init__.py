"""From the lines of logs to figures, by DuckDB."""
