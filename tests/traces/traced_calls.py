"""Makes traced calls of a pod's start, one after the other."""

from typing import Any

from criproxy.traces.channel import TracedCall
from criproxy.traces.worker.call_tracer import pod_trace_id

EPOCH = 1_700_000_000
NGINX = "docker.io/library/nginx:1"


class Calls:
    """Makes the calls of a pod, without a caller's span; ``now`` is in seconds since EPOCH."""

    def __init__(self, pod: str = "web", *, sampled: bool = True) -> None:
        self.now = 0.0
        self.sampled = sampled
        self._subject = {"namespace": "shop", "pod": pod, "pod_uid": f"uid-{pod}"}
        self._made = 0
        self.trace_id = pod_trace_id(self._subject) or b""

    def call(self, method: str, seconds: float, code: str = "OK", **more: Any) -> TracedCall:
        """Make a call that begins now and takes some time; ``more`` are fields of it."""
        began = round((EPOCH + self.now) * 1e9)
        self.now += seconds
        self._made += 1
        about = {key: more.pop(key) for key in ("container", "image") if key in more}
        fields: dict[str, Any] = {
            "trace_id": self.trace_id,
            "span_id": self._made.to_bytes(8, "big"),
            "parent_id": b"",
            "sampled": self.sampled,
            "in_head": self.sampled,
            "began": began,
            "ended": round((EPOCH + self.now) * 1e9),
            "service": f"runtime.v1.{'Image' if method == 'PullImage' else 'Runtime'}Service",
            "method": method,
            "code": code,
            "message": "",
            "end": "status",
            "listener": "unix:///run/test.sock",
            "pid": 1,
            "uid": 0,
            "executable": "/usr/bin/kubelet",
            "subject": self._subject | about,
            "rules": (),
            "denied": "",
            "held": 0.0,
            "first_byte": None,
            "overhead": 0.0,
            "request_bytes": 0,
            "response_bytes": 0,
        }
        return TracedCall(**(fields | more))

    def sandbox(self, seconds: float = 1.0, code: str = "OK", **more: Any) -> TracedCall:
        return self.call("RunPodSandbox", seconds, code, **more)

    def pull(self, seconds: float, code: str = "OK", **more: Any) -> TracedCall:
        return self.call("PullImage", seconds, code, image=NGINX, **more)

    def container(self, name: str = "app", **more: Any) -> list[TracedCall]:
        """CreateContainer, and StartContainer at once, a tenth of a second each."""
        about = {"container": name, "image": NGINX} | more
        return [self.call(f"{verb}Container", 0.1, **about) for verb in ("Create", "Start")]
