"""Calls and messages for the tests of hooks."""

import asyncio
from collections.abc import Coroutine, Mapping
from types import ModuleType
from typing import Any, TypeVar

from criproxy.cri.naming import resolve
from criproxy.cri.pb import runtime_v1_pb2, runtime_v1alpha2_pb2
from criproxy.peers.peer import Peer
from criproxy.rules.facts import Container, Facts, Pod
from tests.support.waiting import LIMIT_SECONDS

T = TypeVar("T")

PB: dict[str, ModuleType] = {"v1": runtime_v1_pb2, "v1alpha2": runtime_v1alpha2_pb2}
UNKNOWN = b"\xf8\x7f\x07"
"""A field 2047, which no message of the CRI has."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a test on a loop with a time limit."""

    async def limited() -> T:
        return await asyncio.wait_for(main, LIMIT_SECONDS)

    return asyncio.run(limited())


def facts(
    method: str = "RuntimeService/CreateContainer",
    version: str = "v1",
    metadata: Mapping[str, str] | None = None,
    **known: Any,
) -> Facts:
    return Facts(
        method_name=resolve(f"/runtime.{version}.{method}".encode()),
        listener="kubelet",
        caller=Peer(812, 0, 0, "/usr/bin/kubelet"),
        metadata=metadata or {},
        pod=Pod("s1", "shop", "web-0", "u1", {"app": "web"}, {"team": "blue"}),
        container=Container("c1", "nginx", "nginx:1", {}, {}, "s1"),
        **known,
    )


def create(version: str = "v1", mounts: int = 0) -> Any:
    """Return a CreateContainerRequest."""
    pb = PB[version]
    request = pb.CreateContainerRequest(pod_sandbox_id="s1")
    request.config.metadata.name = "nginx"
    request.config.image.image = "nginx:1"
    request.config.labels["app"] = "web"
    for index in range(mounts):
        request.config.mounts.add(container_path=f"/c{index}", host_path=f"/h{index}")
    return request
