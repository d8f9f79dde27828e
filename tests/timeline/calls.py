"""Logged calls of a pod's start, one after the other."""

from typing import Any

from criproxy.timeline.logged_call import LoggedCall

EPOCH = 1_700_000_000.0
NGINX = "docker.io/library/nginx:1"


class Calls:
    """Makes the calls of a pod; ``now`` is the time in seconds since EPOCH."""

    def __init__(self, pod: str = "web", now: float = 0.0, **more: Any) -> None:
        self.now = now
        self.made: list[LoggedCall] = []
        self._pod = {"namespace": "shop", "pod": pod, "pod_uid": f"uid-{pod}"} | more

    def wait(self, seconds: float) -> None:
        """Let time pass in which no call runs."""
        self.now += seconds

    def call(self, method: str, seconds: float, code: str = "OK", **more: Any) -> LoggedCall:
        """Make a call that begins now and takes some time."""
        began = EPOCH + self.now
        self.now += seconds
        running = code == ""
        fields = self._pod | {"began": began, "until": EPOCH + self.now, "running": running} | more
        service = "ImageService" if method == "PullImage" else "RuntimeService"
        self.made.append(LoggedCall(f"runtime.v1.{service}", method, code=code, **fields))
        return self.made[-1]

    def sandbox(self, seconds: float = 1.0, code: str = "OK", **more: Any) -> None:
        """Call RunPodSandbox."""
        self.call("RunPodSandbox", seconds, code, **({"pod_id": "p1"} | more))

    def pull(self, seconds: float, image: str = NGINX, code: str = "OK", **more: Any) -> None:
        """Call PullImage."""
        self.call("PullImage", seconds, code, image=image, **more)

    def container(self, name: str = "app", image: str = NGINX, create: float = 0.5) -> None:
        """Call CreateContainer, and StartContainer at once, for half a second."""
        about = {"container": name, "image": image, "pod_id": "p1"}
        self.call("CreateContainer", create, **about)
        self.call("StartContainer", 0.5, **about)
