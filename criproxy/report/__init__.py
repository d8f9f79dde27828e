"""Reports over the calls of a log: figures by DuckDB, and their HTML, Markdown and JSON forms.

:mod:`call_table` reads logs to a table, :mod:`measure` and :mod:`compatibility` compute the figures
that :mod:`figures` defines, :mod:`sections` puts them into words, and :mod:`forms` writes them.
"""
