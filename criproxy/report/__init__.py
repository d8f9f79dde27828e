"""Reports over the calls of a log: figures by DuckDB, and their HTML, Markdown and JSON forms.

:mod:`computing` reads logs to a table and computes the figures that :mod:`figures` defines;
:mod:`forms` puts them into words and charts.
"""
