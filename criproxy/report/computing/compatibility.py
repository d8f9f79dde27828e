"""Computes the compatibility report: what the runtime and its clients do not have in common."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from criproxy import __version__
from criproxy.cri.methods import ENDLESS, FALLBACKS, SERVER_STREAMING
from criproxy.report.computing.call_table import CallTable
from criproxy.report.computing.sources import message_sizes, notes_of, source_of, time_text
from criproxy.report.figures import (
    VERSION,
    ApiVersion,
    Compatibility,
    Deprecated,
    Feature,
    OtherMethod,
    Source,
    Unimplemented,
    Unreadable,
)

GIVEN_UP: Final = 5
"""Broken event streams in a row after which a kubelet gives up EventedPLEG until it restarts."""

_MOST: Final = 50
"""The most rows of a table."""

_WITHOUT: Final = {
    "GetContainerEvents": "A kubelet lists pods and containers instead of EventedPLEG.",
    "RuntimeConfig": "A kubelet takes the cgroup driver of its own configuration.",
}
_ALL: Final = "calls WHERE label = $1 AND NOT running"


def compatibility_of(table: CallTable, files: Sequence[Path]) -> Compatibility:
    """Return the compatibility report of a table. Raises UsageError if it has no calls."""
    source = source_of(table, files)
    return Compatibility(
        version=VERSION,
        criproxy=__version__,
        source=source,
        notes=notes_of(table, source),
        api_versions=api_versions(table),
        unimplemented=unimplemented(table),
        other_methods=other_methods(table),
        features=[feature(table, method) for method in sorted(SERVER_STREAMING)],
        unreadable=unreadable(table),
        deprecated=deprecated(table),
        sizes=message_sizes(table),
        unknown_fields=_unknown_fields(source),
    )


def api_versions(table: CallTable) -> list[ApiVersion]:
    """Return which executables called which version of the API."""
    rows = table.rows(
        f"""
        SELECT coalesce(api_version, '') AS api_version, executable, count(*) AS calls,
            min(began), max(began)
        FROM calls GROUP BY ALL ORDER BY api_version DESC, calls DESC, executable LIMIT {_MOST}
        """  # noqa: S608
    )
    return [
        ApiVersion(version, executable, calls, time_text(first), time_text(last))
        for version, executable, calls, first, last in rows
    ]


def unimplemented(table: CallTable) -> list[Unimplemented]:
    """Return the methods that were answered UNIMPLEMENTED."""
    rows = table.rows(
        f"""
        SELECT service, method, executable, count(*) FILTER (code = 'UNIMPLEMENTED') AS refused,
            count(*) FILTER (NOT running AND code <> 'UNIMPLEMENTED'),
            min(began) FILTER (code = 'UNIMPLEMENTED'), max(began) FILTER (code = 'UNIMPLEMENTED')
        FROM calls GROUP BY service, method, executable HAVING refused > 0
        ORDER BY refused DESC, service, method, executable LIMIT {_MOST}
        """  # noqa: S608
    )
    return [
        Unimplemented(
            service,
            method,
            executable,
            refused,
            answered,
            time_text(first),
            time_text(last),
            consequence(method),
        )
        for service, method, executable, refused, answered, first, last in rows
    ]


def consequence(method: str) -> str:
    """Return what clients do without a method; empty: not known."""
    if method in _WITHOUT:
        return _WITHOUT[method]
    if instead := FALLBACKS.get(method):
        return f"A kubelet and crictl use {', '.join(sorted(instead))} instead."
    return ""


def other_methods(table: CallTable) -> list[OtherMethod]:
    """Return the methods outside the CRI that were called."""
    rows = table.rows(
        f"""
        SELECT service, method, executable, count(*) AS calls,
            count(*) FILTER (NOT running AND code <> 'OK'), max(began)
        FROM calls WHERE api_version IS NULL GROUP BY service, method, executable
        ORDER BY calls DESC, service, method, executable LIMIT {_MOST}
        """  # noqa: S608
    )
    return [
        OtherMethod(service, method, executable, calls, errors, time_text(last))
        for service, method, executable, calls, errors, last in rows
    ]


def feature(table: CallTable, method: str) -> Feature:
    """Return whether a streaming method is in use."""
    calls, running, refused, broken, longest, last = table.row(
        """
        SELECT count(*), count(*) FILTER (running), count(*) FILTER (code = 'UNIMPLEMENTED'),
            count(*) FILTER (NOT running AND code NOT IN ('OK', 'CANCELLED', 'UNIMPLEMENTED')),
            coalesce(max(duration), 0), max(began)
        FROM calls WHERE label = $1
        """,
        method,
    )
    names = sorted(FALLBACKS[method])
    instead = dict(
        table.rows(
            "SELECT label, count(*) FROM calls WHERE label IN (SELECT unnest($1)) GROUP BY label",
            names,
        )
    )
    if not calls:
        state = "not seen"
    elif refused == calls:
        state = "not implemented"
    elif running:
        state = "in use"
    else:
        state = _state_at_the_end(table, method)
    return Feature(
        method=method,
        state=state,
        calls=calls,
        broken=broken,
        longest_s=longest,
        last=time_text(last) if calls else "",
        instead={name: instead[name] for name in names if name in instead},
    )


def _state_at_the_end(table: CallTable, method: str) -> str:
    """Return the state of a method by the codes of its last calls."""
    codes = [
        code
        for (code,) in table.rows(
            f"SELECT code FROM {_ALL} ORDER BY began DESC, ended DESC LIMIT {GIVEN_UP}",  # noqa: S608
            method,
        )
    ]
    if codes[0] == "UNIMPLEMENTED":
        return "not implemented"
    if codes[0] in ("OK", "CANCELLED"):
        return "in use"
    broken = all(code not in ("OK", "CANCELLED") for code in codes)
    endless = method.encode() in ENDLESS
    return "given up" if endless and broken and len(codes) == GIVEN_UP else "failing"


def unreadable(table: CallTable) -> list[Unreadable]:
    """Return why messages are missing in the records of an audit log."""
    rows = table.rows(
        f"""
        WITH messages AS (
            SELECT label, 'request' AS direction, unreadable_request AS reason FROM calls
            UNION ALL SELECT label, 'response', unreadable_response FROM calls)
        SELECT label, direction, left(reason, 300) AS reason, count(*) AS calls
        FROM messages WHERE reason IS NOT NULL GROUP BY ALL
        ORDER BY calls DESC, label, direction, reason LIMIT {_MOST}
        """  # noqa: S608
    )
    return [Unreadable(*row) for row in rows]


def deprecated(table: CallTable) -> list[Deprecated] | None:
    """Return the deprecated fields that requests have; None: no request was recorded."""
    (recorded,) = table.row("SELECT count(*) FROM calls WHERE deprecated IS NOT NULL")
    if not recorded:
        return None
    rows = table.rows(
        "SELECT label, field, count(*) FROM (SELECT label, unnest(deprecated) AS field FROM calls) "
        "GROUP BY ALL ORDER BY ALL"
    )
    return [Deprecated(*row) for row in rows]


def _unknown_fields(source: Source) -> str:
    if source.log == "call log":
        return (
            "The call log has no messages, so fields that a side does not know cannot be told; an "
            "audit log at level RequestResponse has messages that cannot be decoded."
        )
    if source.log == "recording":
        return (
            "A redacted recording has the fields that criproxy knows, so others cannot be told; an "
            "audit log at level RequestResponse has messages that cannot be decoded."
        )
    return (
        "Records have the fields that criproxy knows, so others cannot be told; messages that "
        "criproxy cannot decode are listed under unreadable."
    )
