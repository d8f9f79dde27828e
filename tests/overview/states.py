"""States of a daemon, as its admin socket tells them."""

from typing import Any


def call(method: str = "Version", age: float = 0.5, **more: Any) -> dict[str, Any]:
    """A call in flight."""
    service = "ImageService" if method == "PullImage" else "RuntimeService"
    return {
        "listener": "unix:///run/criproxy/criproxy.sock",
        "service": f"runtime.v1.{service}",
        "method": method,
        "began": f"2026-11-28T08:00:{60 - age:09.6f}Z",
        "age_s": age,
        "slow": False,
        "pid": 4711,
        "uid": 0,
        "gid": 0,
        "executable": "/usr/bin/kubelet",
        "answering": False,
        "request_messages": 1,
        "request_bytes": 42,
        "response_messages": 0,
        "response_bytes": 0,
        "rules": [],
        "held_s": 0.0,
        "worker": "full",
    } | more


def method(name: str, codes: dict[str, int], *buckets: tuple[float | None, int]) -> dict[str, Any]:
    """The counters of a method; ``buckets`` are cumulative."""
    return {
        "service": "runtime.v1.RuntimeService",
        "method": name,
        "codes": codes,
        "buckets": [list(each) for each in buckets],
    }


def pod(name: str = "web", age: float = 34.0, **more: Any) -> dict[str, Any]:
    """A pod whose image is being pulled."""
    image = "docker.io/library/nginx:1"
    text = f"image pull of {image}, still running: 31.2 s of 34.0 s"
    return {
        "namespace": "shop",
        "pod": name,
        "pod_uid": f"uid-{name}",
        "pod_id": f"id-{name}",
        "began": "2026-11-28T08:00:26.000000Z",
        "ended": "2026-11-28T08:01:00.000000Z",
        "state": "running",
        "seconds": 34.0,
        "cause": {"kind": "pull", "subject": image, "seconds": 31.2, "text": text},
        "phases": [
            {"kind": "sandbox", "subject": "", "began": "2026-11-28T08:00:26Z", "seconds": 2.8},
            {"kind": "pull", "subject": image, "began": "2026-11-28T08:00:28Z", "seconds": 31.2},
        ],
        "age_s": age,
        "phase": {
            "kind": "pull",
            "subject": image,
            "seconds": 31.2,
            "text": f"image pull of {image}",
        },
    } | more


def start(
    name: str = "db", text: str = "image pull of redis: 2.0 s of 3.0 s", **more: Any
) -> dict[str, Any]:
    """A pod start that has ended, with the text of its cause."""
    started = {
        "state": "started",
        "ended": "2026-11-28T07:59:30.000000Z",
        "seconds": 3.0,
        "cause": {"kind": "pull", "subject": "redis", "seconds": 2.0, "text": text},
    }
    fields = pod(name) | started | more
    return {key: value for key, value in fields.items() if key not in ("age_s", "phase")}


def state(uptime: float, **more: Any) -> dict[str, Any]:
    """The state of a daemon that has run for so many seconds."""
    minutes, seconds = divmod(uptime, 60)
    return {
        "version": 1,
        "criproxy": "1.2.3",
        "time": f"2026-11-28T08:{int(minutes):02}:{seconds:09.6f}Z",
        "started": "2026-11-28T08:00:00.000000Z",
        "uptime_s": uptime,
        "runtime_problem": None,
        "calls": [],
        "methods": [],
        "pods": [],
    } | more
