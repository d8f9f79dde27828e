"""What the page is sent: the tables with their cells as texts, bounded. Pure.

What clients choose, such as the name of a pod, is a text in a cell and nothing else: the page is
told neither markup nor the name of a style by it.
"""

from typing import Any, Final

from criproxy.common.printable import printable
from criproxy.overview.figures import VERSION
from criproxy.overview.tables import CALLS, METHODS, PODS, STARTS, Fields, Table, describe, summary

MAX_ROWS: Final = 100
"""Rows of a table: more than anybody reads. A client may have as many calls as it likes."""

_MAX_TEXT: Final = 300
"""Characters of a cell or a detail: a client chooses the length of a name."""

_MAX_DETAILS: Final = 200
"""Details of a row: a pod whose container fails has calls without end."""

_TABLES: Final = (CALLS, PODS, METHODS, STARTS)


def page_form(found: Fields) -> dict[str, Any]:
    """Return the JSON form of figures that have ``starts`` as well.

    ``tables`` has, for each, its ``source``, ``name`` and ``columns``, and ``rows`` in order, with
    how many there are without a row (``left_out``). A row has ``cells``, by what each column is
    ordered (``orders``: all numbers or all texts), its color (``color``, or empty) and ``details``,
    names with texts.
    """
    return {
        "version": VERSION,
        "criproxy": found["criproxy"],
        "time": found["time"],
        "summary": summary(found),
        "tables": [_table(each, found) for each in _TABLES],
    }


def _table(table: Table, found: Fields) -> dict[str, Any]:
    objects = table.ordered(found)
    keys: dict[str, int] = {}
    return {
        "source": table.source,
        "name": table.name,
        "columns": [{"name": each.name, "descending": each.descending} for each in table.columns],
        "rows": [_row(table, each, keys) for each in objects[:MAX_ROWS]],
        "left_out": max(len(objects) - MAX_ROWS, 0),
    }


def _row(table: Table, fields: Fields, keys: dict[str, int]) -> dict[str, Any]:
    key = _short(table.key(fields))
    number = keys[key] = keys.get(key, 0) + 1
    return {
        "key": f"{number} {key}",
        "cells": [_short(cell) for cell in table.cells(fields)],
        "orders": [_order(column.order(fields)) for column in table.columns],
        "color": table.style(fields).get("fg", ""),
        "details": [[_short(name), _short(text)] for name, text in describe(fields, _MAX_DETAILS)],
    }


def _order(value: Any) -> Any:
    return _short(value) if isinstance(value, str) else value


def _short(text: str) -> str:
    if len(text) > _MAX_TEXT:
        text = f"{text[:_MAX_TEXT]}\N{HORIZONTAL ELLIPSIS}"
    return printable(text)
