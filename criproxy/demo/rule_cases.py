"""Calls that rules of the demo's proxy act on: one is denied, one renamed, one hangs and is found.

The rules match calls of the demo's own pod only. The runtime receives none of the calls that are
denied or hang, so a real runtime is not affected.
"""

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import grpc

from criproxy.client import CriClient
from criproxy.demo.proxy import ProxyProcess
from criproxy.demo.screen import Screen
from criproxy.embedded.kubelet import Kubelet, OnCall
from criproxy.errors import UnavailableError
from criproxy.rules.image_names import is_registry

POD: Final = "demo-rules"
CALL_SECONDS: Final = 60.0
"""Deadline of one call."""
HUNG_SECONDS: Final = 1.0
"""Age at which the hanging call is reported as slow."""
FIND_SECONDS: Final = 15.0
"""Time limit for the hanging call to be found."""
_POLL_SECONDS: Final = 0.05

_MIRROR: Final = "mirror.example"
"""A registry that does not exist, in whose name the client asks for an image."""
_HANGING: Final = ("wait-forever",)
_OMITTED: Final = ("caller.command", "caller.gid", "pod.id", "pod.uid", "container.id")
"""Fields that the records do without, to be short."""
_DENIAL: Final = "no privileged containers on this node"


def mirrored(image: str) -> str | None:
    """Return an image's name at the mirror; None for a short name or an id."""
    registry, slash, rest = image.partition("/")
    return f"{_MIRROR}/{rest}" if slash and is_registry(registry) else None


def settings(image: str, audit_log: Path) -> Mapping[str, Any]:
    """Return the keys of the proxy's configuration that the cases need: rules, when a call counts
    as slow, and what the audit log has of the calls."""
    rules: list[dict[str, Any]] = [
        {
            "name": "no-privileged",
            "match": {
                "methods": ["CreateContainer"],
                "where": f'pod.name == "{POD}" && request.config.linux.security_context.privileged',
            },
            "deny": {"code": "PERMISSION_DENIED", "message": _DENIAL},
        },
        {
            "name": "hanging-exec",
            "match": {
                "methods": ["ExecSync"],
                "where": f'pod.name == "{POD}" && request.cmd == ["{_HANGING[0]}"]',
            },
            "fault": {"hang": True},
        },
    ]
    if mirrored(image) is not None:
        registry = image.partition("/")[0]
        rules.append(
            {
                "name": "use-registry",
                "match": {"methods": ["CreateContainer"], "where": f'pod.name == "{POD}"'},
                "rewrite_images": [{"from": f"{_MIRROR}/*", "to": f"{registry}/*"}],
            }
        )
    return {
        "rules": rules,
        "slow": {"methods": {"ExecSync": f"{HUNG_SECONDS:g}s"}},
        "audit": {
            "policy": [{"level": "Metadata", "pods": [POD], "omit": _OMITTED}],
            "sinks": [{"file": {"path": str(audit_log)}}],
        },
    }


class RuleCases:
    """Makes the calls, one after the other, and shows what the proxy did with each.

    ``kubelet`` says what its pods look like, and removes this one in the end. ``on_call`` gets
    each call when it has ended; ``stop`` ends the wait for the hanging call.
    """

    def __init__(
        self,
        proxy: ProxyProcess,
        kubelet: Kubelet,
        screen: Screen,
        on_call: OnCall,
        stop: threading.Event,
    ) -> None:
        self._proxy = proxy
        self._kubelet = kubelet
        self._screen = screen
        self._on_call = on_call
        self._stop = stop

    def run(self, image: str, api_version: str) -> None:
        """Show all cases. Raises UnavailableError when the runtime fails a call that no rule
        concerns, or when a rule did not act."""
        try:
            with CriClient(self._proxy.endpoint, api_version, timeout=CALL_SECONDS) as client:
                self._run(client, image)
        except grpc.RpcError as error:
            raise UnavailableError(
                f"the rules could not be shown: {error.code().name}: {error.details()}"
            ) from error

    def _run(self, client: CriClient, image: str) -> None:
        pod = self._kubelet.sandbox_config(POD)
        container = self._kubelet.container_config()
        sandbox = self._call(client, "RunPodSandbox", config=pod).pod_sandbox_id
        create = {"pod_sandbox_id": sandbox, "sandbox_config": pod}
        self._show_denied(client, {**create, "config": container})
        if (name := mirrored(image)) is not None:
            container = {**container, "image": {"image": name}}
        created = self._call(client, "CreateContainer", config=container, **create).container_id
        if name is not None:
            self._show_renamed(client, created, name)
        self._show_hung(client, created)

    def _show_denied(self, client: CriClient, request: Mapping[str, Any]) -> None:
        privileged = {"security_context": {"privileged": True}}
        config = {**request["config"], "linux": privileged}
        try:
            self._call(client, "CreateContainer", **{**request, "config": config})
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.PERMISSION_DENIED:
                raise
            self._screen.explain(f"denied by a rule: {error.details()}")
        else:
            raise UnavailableError("the proxy did not deny a privileged container")

    def _show_renamed(self, client: CriClient, container: str, asked: str) -> None:
        had = self._call(client, "ContainerStatus", container_id=container).status.image.image
        self._screen.explain(
            f"renamed by a rule: the client asked for {asked}, the runtime has {had}"
        )

    def _show_hung(self, client: CriClient, container: str) -> None:
        """Have a call hang until the proxy reports it, then cancel it."""
        began = time.monotonic()
        request = client.messages.ExecSyncRequest(container_id=container, cmd=_HANGING)
        hanging = client.raw("ExecSync").future(request, timeout=CALL_SECONDS)
        try:
            found = self._find(began + FIND_SECONDS)
        finally:
            hanging.cancel()
            self._on_call("ExecSync", POD, "CANCELLED", time.monotonic() - began)
        if found is not None:
            self._screen.explain(
                f"hung, and found by /calls after {found['age_s']:.1f} s: {found['method']} in pod "
                f"{found['namespace']}/{found['pod']}, by {found['executable']} (pid "
                f"{found['pid']}); then the client gave up"
            )

    def _find(self, deadline: float) -> dict[str, Any] | None:
        """Return the call of the page /calls that is slow; None if the demo is ended before."""
        while not self._stop.wait(_POLL_SECONDS):
            for call in self._proxy.calls_in_flight():
                if call["method"] == "ExecSync" and call["age_s"] >= HUNG_SECONDS:
                    return call
            if time.monotonic() > deadline:
                raise UnavailableError("the proxy did not find the call that hangs")
        return None

    def _call(self, client: CriClient, method: str, **fields: Any) -> Any:
        began = time.monotonic()
        code = grpc.StatusCode.OK.name
        try:
            return client.call(method, **fields)
        except grpc.RpcError as error:
            code = error.code().name
            raise
        finally:
            self._on_call(method, POD, code, time.monotonic() - began)
