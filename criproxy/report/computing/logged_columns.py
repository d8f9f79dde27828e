"""The columns of a table of calls, as SQL over the lines of both logs. Pure.

What a line means is said by :mod:`criproxy.timeline.logged_call`, which parses single lines; this
is the same for all lines of files at once.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from criproxy.report.computing.deprecated_fields import DEPRECATED
from criproxy.timeline.logged_call import LAST_TIME

_NUMBER, _TEXT, _SIZE = "DOUBLE", "VARCHAR", "BIGINT"

_CALL_LOG: Final = {
    "event": _TEXT,
    "began": _TEXT,
    "duration_s": _NUMBER,
    "age_s": _NUMBER,
    "held_s": _NUMBER,
    "slow": "BOOLEAN",
    "pid": _SIZE,
    "executable": _TEXT,
    "api_version": _TEXT,
    "request_messages": _SIZE,
    "request_bytes": _SIZE,
    "response_messages": _SIZE,
    "response_bytes": _SIZE,
    "namespace": _TEXT,
    "pod_uid": _TEXT,
    "pod_id": _TEXT,
    "container_id": _TEXT,
}
_AUDIT_LOG: Final = {
    "kind": _TEXT,
    "stage": _TEXT,
    "auditID": _TEXT,
    "stageTimestamp": _TEXT,
    "requestReceivedTimestamp": _TEXT,
    "durationSeconds": _NUMBER,
    "node": _TEXT,
    "caller": {"pid": _SIZE, "executable": _TEXT},
    "criVersion": _TEXT,
    "requestMessages": _SIZE,
    "requestBytes": _SIZE,
    "responseMessages": _SIZE,
    "responseBytes": _SIZE,
    "unreadable": {"request": _TEXT, "response": _TEXT},
    "requestObject": _TEXT,
}
_BOTH: Final = {
    "listener": _TEXT,
    "service": _TEXT,
    "method": _TEXT,
    "code": _TEXT,
    "message": _TEXT,
    "image": _TEXT,
    "rules": [_TEXT],
    "pod": _TEXT,  # a name, or as JSON the object of the audit log
    "container": _TEXT,
}

STRUCTURE: Final = json.dumps(_CALL_LOG | _AUDIT_LOG | _BOTH)
"""The fields of a line that are read, as json_transform wants them; one of another type is NULL."""

_IS_CALL_LOG: Final = "coalesce(line.event, '') IN ('call', 'slow call')"
IS_AUDIT: Final = f"(NOT {_IS_CALL_LOG} AND coalesce(line.kind, '') = 'Event')"
IS_CALL: Final = (
    f"({_IS_CALL_LOG} AND line.began IS NOT NULL OR {IS_AUDIT} "
    'AND line."requestReceivedTimestamp" IS NOT NULL)'
)

HAS_TIMES: Final = (
    "epoch_us(began_at) >= 0 "
    f"AND epoch_us(began_at) / 1e6 + duration <= {int(LAST_TIME.timestamp())}"
)
"""Whether a call, by its columns, begins and ends at times that can be written."""


def _time(sql: str) -> str:
    """Return the SQL of a time: in UTC, where the text has no zone."""
    return f"try_cast({sql} AS TIMESTAMPTZ)"


_RECEIVED: Final = _time('line."requestReceivedTimestamp"')
_UNTIL_STAGE: Final = _time('line."stageTimestamp"')


def _by_log(call_log: str, audit_log: str) -> str:
    return f"CASE WHEN {IS_AUDIT} THEN {audit_log} ELSE {call_log} END"


def _member(column: str, name: str, otherwise: str = "''") -> str:
    """Return the SQL of a member of an object of the audit log."""
    return f"coalesce(try_cast(line.{column} AS JSON)->>'$.{name}', {otherwise})"


def _text(sql: str) -> str:
    return f"coalesce({sql}, '')"


def _deprecated() -> str:
    request = 'try_cast(line."requestObject" AS JSON)'
    cases = [
        f"CASE WHEN line.method = '{each.method}' "
        f"AND coalesce({request}->>'{each.json_path}', '') <> '' THEN '{each.name}' END"
        for each in DEPRECATED
    ]
    present = f"list_filter([{', '.join(cases)}], lambda name: name IS NOT NULL)"
    return _by_log("NULL", f'CASE WHEN line."requestObject" IS NULL THEN NULL ELSE {present} END')


COLUMNS: Final[Mapping[str, str]] = {
    "audit": IS_AUDIT,
    "began_at": _by_log(_time("line.began"), _RECEIVED),
    "running": _by_log("line.event = 'slow call'", "line.stage = 'RequestReceived'"),
    "duration": "greatest(coalesce("
    + _by_log(
        "CASE WHEN line.event = 'slow call' THEN line.age_s ELSE line.duration_s END",
        f"""CASE WHEN line.stage = 'RequestReceived'
        THEN (epoch_us({_UNTIL_STAGE}) - epoch_us({_RECEIVED})) / 1e6
        ELSE line."durationSeconds" END""",
    )
    + ", 0), 0)",
    "audit_id": _text('line."auditID"'),
    "reported_slow": "coalesce(line.slow, false)",
    "service": _text("line.service"),
    "method": _text("line.method"),
    "code": _text("line.code"),
    "message": _text("line.message"),
    "listener": _text("line.listener"),
    "node": _by_log("''", _text("line.node")),
    "pid": f"coalesce({_by_log('line.pid', 'line.caller.pid')}, 0)",
    "executable": _text(_by_log("line.executable", "line.caller.executable")),
    "namespace": _by_log(_text("line.namespace"), _member("pod", "namespace")),
    "pod": _by_log(_text("line.pod"), _member("pod", "name")),
    "pod_uid": _by_log(_text("line.pod_uid"), _member("pod", "uid")),
    "pod_id": _by_log(_text("line.pod_id"), _member("pod", "id")),
    "container": _by_log(_text("line.container"), _member("container", "name")),
    "container_id": _by_log(_text("line.container_id"), _member("container", "id")),
    "image": _by_log(
        _text("line.image"), f"coalesce(nullif(line.image, ''), {_member('container', 'image')})"
    ),
    "rules": "coalesce(line.rules, [])",
    "held": _by_log("coalesce(line.held_s, 0)", "0"),
    "request_messages": 'coalesce(line.request_messages, line."requestMessages")',
    "request_bytes": 'coalesce(line.request_bytes, line."requestBytes")',
    "response_messages": 'coalesce(line.response_messages, line."responseMessages")',
    "response_bytes": 'coalesce(line.response_bytes, line."responseBytes")',
    "unreadable_request": "line.unreadable.request",
    "unreadable_response": "line.unreadable.response",
    "deprecated": _deprecated(),
}
"""The columns of a call, and their expressions over a line; ``deprecated`` are the deprecated
fields in its request, NULL where the request was not recorded."""


def method_values() -> list[tuple[Any, ...]]:
    """Return service, method, API version, whether it reads, and whether it is endless."""
    from criproxy.cri.methods import ENDLESS, METHODS

    return [
        (
            each.service,
            each.name,
            each.api_version,
            not each.mutating,
            each.name.encode() in ENDLESS,
        )
        for each in METHODS.values()
    ]
