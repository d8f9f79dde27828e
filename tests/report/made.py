"""Made calls, as lines of both logs."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

Line = dict[str, Any]
START = datetime(2026, 11, 28, 10, tzinfo=UTC)
RUNTIME, IMAGE = "runtime.v1.RuntimeService", "runtime.v1.ImageService"
OLD = "runtime.v1alpha2.RuntimeService"
_CALLS: Sequence[tuple[str, str]] = (
    (RUNTIME, "ListContainers"),
    (RUNTIME, "ListPodSandbox"),
    (RUNTIME, "ExecSync"),
    (RUNTIME, "RunPodSandbox"),
    (RUNTIME, "GetContainerEvents"),
    (IMAGE, "PullImage"),
    (OLD, "Version"),
    ("containerd.services.images.v1.Images", "List"),
)


def text_of(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def call(method: str, at: float = 0.0, duration: float = 0.01, **more: Any) -> Line:
    """The line of a call in the call log; ``at`` is in seconds after START."""
    began = START + timedelta(seconds=at)
    return {
        "timestamp": text_of(began + timedelta(seconds=duration)),
        "level": "info",
        "event": "call",
        "listener": "unix:///run/criproxy/criproxy.sock",
        "pid": 7,
        "uid": 0,
        "executable": "/usr/bin/kubelet",
        "service": RUNTIME,
        "method": method,
        "began": text_of(began),
        "code": "OK",
        "duration_s": round(duration, 6),
        "request_messages": 1,
        "request_bytes": 10,
        "response_messages": 1,
        "response_bytes": 100,
    } | more


def calls(number: int, seed: int) -> list[Line]:
    """Calls of some methods, callers and codes, in the order in which they ended."""
    random = Random(seed)
    lines = []
    for _ in range(number):
        service, method = random.choice(_CALLS)
        failed = random.random() < 0.1
        lines.append(
            call(
                method,
                random.uniform(0, 3000),
                random.choice([0.0, random.lognormvariate(-5, 2)]),
                service=service,
                executable=random.choice(["/usr/bin/kubelet", "/usr/bin/crictl", None]),
                code=random.choice(["NOT_FOUND", "UNAVAILABLE"]) if failed else "OK",
                message="no such thing" if failed else "",
                response_messages=0 if failed else random.choice([1, 1, 3]),
                response_bytes=random.randrange(1 << 22),
                namespace="shop",
                pod=f"web-{random.randrange(9)}",
                pod_uid="u",
            )
        )
    return sorted(lines, key=lambda line: line["timestamp"])


def record(line: Line, **more: Any) -> Line:
    """The record in the audit log of a call in the call log."""
    return {
        "apiVersion": "audit.criproxy.io/v1",
        "kind": "Event",
        "level": "Metadata",
        "auditID": f"{line['began']}-{line['method']}-{line['duration_s']}",
        "stage": "ResponseComplete",
        "stageTimestamp": line["timestamp"].replace("Z", "000Z"),
        "requestReceivedTimestamp": line["began"].replace("Z", "000Z"),
        "node": "n1",
        "listener": line["listener"],
        "caller": {"pid": line["pid"], "uid": line["uid"], "executable": line["executable"]},
        "service": line["service"],
        "method": line["method"],
        "pod": {"namespace": line.get("namespace", ""), "name": line.get("pod", ""), "uid": "u"},
        "code": line["code"],
        "message": line.get("message", ""),
        "durationSeconds": line["duration_s"],
        "requestMessages": line["request_messages"],
        "requestBytes": line["request_bytes"],
        "responseMessages": line["response_messages"],
        "responseBytes": line["response_bytes"],
    } | more
