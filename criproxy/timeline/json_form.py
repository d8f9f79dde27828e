"""The JSON form of pod starts, for programs. Fields are added and do not change their meaning."""

from datetime import UTC, datetime
from typing import Any

from criproxy.timeline.pod_start import CREATE, PULL, SANDBOX, START, WAITS, Phase, PodStart


def json_of(start: PodStart) -> dict[str, Any]:
    """Return the fields of a start. Times are RFC 3339 in UTC, durations seconds."""
    pod, cause = start.pod, start.cause
    return {
        "namespace": pod.namespace,
        "pod": pod.pod,
        "pod_uid": pod.pod_uid,
        "pod_id": start.pod_id,
        **({"node": pod.node} if pod.node else {}),
        "began": text_of_time(start.began),
        "ended": text_of_time(start.ended),
        "state": start.state,
        "seconds": _rounded(start.seconds),
        "sandbox_s": _rounded(start.seconds_of(SANDBOX)),
        "pull_s": _rounded(start.seconds_of(PULL)),
        "create_s": _rounded(start.seconds_of(CREATE)),
        "start_s": _rounded(start.seconds_of(START)),
        "waits_s": _rounded(start.seconds_of(*WAITS)),
        "cause": {
            "kind": cause.kind,
            "subject": cause.subject,
            "seconds": _rounded(cause.seconds),
            "text": cause.text,
        },
        "phases": [_phase(phase) for phase in start.phases],
    }


def text_of_time(seconds: float) -> str:
    """Return a time (seconds since the epoch) in RFC 3339, in UTC."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


def _phase(phase: Phase) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "kind": phase.kind,
        "subject": phase.subject,
        "began": text_of_time(phase.began),
        "seconds": _rounded(phase.seconds),
    }
    call = phase.call
    if call is not None:
        fields |= {"method": call.method, "code": None if call.running else call.code}
        fields |= {"duration_s": _rounded(call.duration)}
        fields |= {"message": call.message} if call.message else {}
        fields |= {"rules": call.rules} if call.rules else {}
        fields |= {"held_s": call.held} if call.held else {}
    return fields


def _rounded(seconds: float) -> float:
    return round(seconds, 6)
