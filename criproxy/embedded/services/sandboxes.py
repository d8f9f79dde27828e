"""The pod sandbox methods: run, stop, remove, status, list, update."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Final

from google.protobuf.json_format import MessageToDict

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.embedded.services.chunks import chunks
from criproxy.embedded.state import views
from criproxy.embedded.state.errors import unknown
from criproxy.embedded.state.objects import KILLED, Sandbox
from criproxy.embedded.state.store import Store, matches, with_prefix

RUNTIME_HANDLERS: Final = ("", "runc")


class SandboxService:
    """The sandbox methods of the runtime service."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def run_pod_sandbox(self, request: v1.RunPodSandboxRequest) -> v1.RunPodSandboxResponse:
        """Create a sandbox; fails when its name is taken or its runtime handler unknown."""
        if not request.config.HasField("metadata"):
            raise unknown("sandbox config must include metadata")
        if request.runtime_handler not in RUNTIME_HANDLERS:
            raise unknown(
                "failed to get sandbox runtime: "
                f'no runtime for "{request.runtime_handler}" is configured'
            )
        sandbox = self._store.add_sandbox(request.config, request.runtime_handler)
        return v1.RunPodSandboxResponse(pod_sandbox_id=sandbox.id)

    def stop_pod_sandbox(self, request: v1.StopPodSandboxRequest) -> v1.StopPodSandboxResponse:
        """Kill a sandbox's containers and stop it. Idempotent; NOT_FOUND for an unknown one."""
        id_ = request.pod_sandbox_id
        sandbox = self._store.find_sandbox(
            id_, f'an error occurred when try to find sandbox "{id_}"'
        )
        self._stop(sandbox)
        return v1.StopPodSandboxResponse()

    def remove_pod_sandbox(
        self, request: v1.RemovePodSandboxRequest
    ) -> v1.RemovePodSandboxResponse:
        """Remove a sandbox with its containers. Succeeds for an unknown one."""
        id_ = request.pod_sandbox_id
        if id_ and not with_prefix(self._store.sandboxes.items(), id_):
            return v1.RemovePodSandboxResponse()
        sandbox = self._store.find_sandbox(
            id_, f'an error occurred when try to find sandbox "{id_}"'
        )
        self._stop(sandbox)
        for container in list(sandbox.containers.values()):
            self._store.remove_container(container)
        self._store.remove_sandbox(sandbox)
        return v1.RemovePodSandboxResponse()

    def pod_sandbox_status(
        self, request: v1.PodSandboxStatusRequest
    ) -> v1.PodSandboxStatusResponse:
        """Return a sandbox's status, with its configuration when verbose."""
        sandbox = self._store.find_sandbox(
            request.pod_sandbox_id, "an error occurred when try to find sandbox"
        )
        info = {"info": json.dumps(_details(sandbox))} if request.verbose else {}
        return v1.PodSandboxStatusResponse(status=views.sandbox_status(sandbox), info=info)

    def list_pod_sandbox(self, request: v1.ListPodSandboxRequest) -> v1.ListPodSandboxResponse:
        """Return the sandboxes that match the filter."""
        return v1.ListPodSandboxResponse(items=self._matching(request.filter))

    async def stream_pod_sandboxes(
        self, request: v1.StreamPodSandboxesRequest
    ) -> AsyncIterator[v1.StreamPodSandboxesResponse]:
        """Yield the sandboxes that match the filter, some in each message."""
        for part in chunks(self._matching(request.filter)):
            yield v1.StreamPodSandboxesResponse(pod_sandboxes=part)

    def update_pod_sandbox_resources(
        self, request: v1.UpdatePodSandboxResourcesRequest
    ) -> v1.UpdatePodSandboxResourcesResponse:
        """Apply a sandbox's changed limits."""
        sandbox = self._store.find_sandbox(request.pod_sandbox_id, "failed to find sandbox")
        sandbox.config.linux.overhead.MergeFrom(request.overhead)
        sandbox.config.linux.resources.MergeFrom(request.resources)
        self._store.touch()
        return v1.UpdatePodSandboxResourcesResponse()

    def _matching(self, wanted: v1.PodSandboxFilter) -> Iterator[v1.PodSandbox]:
        for sandbox in with_prefix(self._store.sandboxes.items(), wanted.id):
            if wanted.HasField("state") and wanted.state.state != views.sandbox_state(sandbox):
                continue
            if matches(wanted.label_selector, sandbox.config.labels):
                yield views.sandbox_item(sandbox)

    def _stop(self, sandbox: Sandbox) -> None:
        for container in sandbox.containers.values():
            if container.state == v1.CONTAINER_RUNNING:
                self._store.exit(container, KILLED)
        if sandbox.ready:
            self._store.stop(sandbox)


def _details(sandbox: Sandbox) -> dict[str, object]:
    return {
        "pid": sandbox.pid,
        "processStatus": "running" if sandbox.ready else "deleted",
        "netNamespaceClosed": not sandbox.ready,
        "runtimeHandler": sandbox.runtime_handler,
        "runtimeType": "io.containerd.runc.v2",
        "config": MessageToDict(sandbox.config, preserving_proto_field_name=True),
    }
