"""The lines of calls in both logs."""

import json
from datetime import UTC, datetime
from typing import Any

from criproxy.timeline.logged_call import LoggedCall


def time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def logged(call: LoggedCall) -> dict[str, Any]:
    """The line of a call in the call log, without what is empty."""
    names = ("namespace", "pod", "pod_uid", "pod_id", "container", "image", "code", "message")
    fields = {"event": "call", "service": call.service, "method": call.method}
    fields |= {name: getattr(call, name) for name in names if getattr(call, name)}
    return fields | {"began": time(call.began), "duration_s": call.duration}


def audited(call: LoggedCall) -> dict[str, Any]:
    """The record of a call in the audit log."""
    return {
        "kind": "Event",
        "stage": "ResponseComplete",
        "requestReceivedTimestamp": time(call.began),
        "durationSeconds": call.duration,
        "service": call.service,
        "method": call.method,
        "pod": {"namespace": call.namespace, "name": call.pod, "uid": call.pod_uid},
        "container": {"name": call.container},
        "image": call.image,
        "code": call.code,
        "node": "n1",
    }


def text_of(lines: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)
