"""The container methods: create, start, stop, remove, status, list, update."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import PurePosixPath

from google.protobuf.json_format import MessageToDict

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.embedded.services.chunks import chunks
from criproxy.embedded.services.images import resolve
from criproxy.embedded.state import views
from criproxy.embedded.state.errors import not_found, unknown
from criproxy.embedded.state.objects import KILLED, START_ERROR, Container
from criproxy.embedded.state.programs import CommandError, main_program
from criproxy.embedded.state.store import Store, matches, with_prefix


class ContainerService:
    """The container methods of the runtime service."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create_container(self, request: v1.CreateContainerRequest) -> v1.CreateContainerResponse:
        """Create a container in a running sandbox, from a present image."""
        sandbox = self._store.find_sandbox(
            request.pod_sandbox_id, f'failed to find sandbox id "{request.pod_sandbox_id}"'
        )
        if not sandbox.ready:
            raise not_found(
                "failed to get sandbox container task: no running task found: "
                f"task {sandbox.id} not found: not found"
            )
        if not request.config.HasField("metadata"):
            raise unknown("container config must include metadata")
        image = resolve(self._store.images, request.config.image.image)
        if image is None:
            raise not_found(f'failed to resolve image "{request.config.image.image}": not found')
        config = request.config
        directory = request.sandbox_config.log_directory or sandbox.config.log_directory
        log_path = str(PurePosixPath(directory) / config.log_path) if config.log_path else ""
        container = self._store.add_container(sandbox, config, image, log_path)
        return v1.CreateContainerResponse(container_id=container.id)

    def start_container(self, request: v1.StartContainerRequest) -> v1.StartContainerResponse:
        """Start a created container; a running or exited one cannot be started."""
        container = self._find(request.container_id)
        if container.state != v1.CONTAINER_CREATED:
            raise unknown(
                f'failed to set starting state for container "{container.id}": '
                f"container is in {container.state_name} state"
            )
        if not container.sandbox.ready:
            raise unknown(f'sandbox container "{container.sandbox.id}" is not running')
        try:
            program = main_program([*container.config.command, *container.config.args])
        except CommandError as error:
            message = (
                "failed to create containerd task: failed to create shim task: OCI runtime create "
                f"failed: runc create failed: {error}: unknown"
            )
            self._store.exit(container, START_ERROR, "StartError", message)
            raise unknown(message) from error
        self._store.start(container)
        if program.lifetime is not None:
            asyncio.get_running_loop().call_later(
                program.lifetime, self._end, container, program.exit_code
            )
        return v1.StartContainerResponse()

    async def stop_container(self, request: v1.StopContainerRequest) -> v1.StopContainerResponse:
        """End a running container's process; kill it after the grace period."""
        container = self._find(request.container_id)
        if container.state == v1.CONTAINER_RUNNING and request.timeout > 0:
            if main_program([*container.config.command, *container.config.args]).exits_on_sigterm:
                self._end(container, 0)
            with suppress(TimeoutError):
                await asyncio.wait_for(container.exited.wait(), request.timeout)
        self._end(container, KILLED)
        return v1.StopContainerResponse()

    def remove_container(self, request: v1.RemoveContainerRequest) -> v1.RemoveContainerResponse:
        """Remove a container, running or not. Succeeds for an unknown one."""
        id_ = request.container_id
        if id_ and not with_prefix(self._store.containers.items(), id_):
            return v1.RemoveContainerResponse()
        container = self._find(id_)
        self._end(container, KILLED)
        self._store.remove_container(container)
        return v1.RemoveContainerResponse()

    def container_status(self, request: v1.ContainerStatusRequest) -> v1.ContainerStatusResponse:
        """Return a container's status, with its configuration when verbose."""
        container = self._find(request.container_id)
        info = {"info": json.dumps(_details(container))} if request.verbose else {}
        return v1.ContainerStatusResponse(status=self._store.status(container), info=info)

    def list_containers(self, request: v1.ListContainersRequest) -> v1.ListContainersResponse:
        """Return the containers that match the filter."""
        return v1.ListContainersResponse(containers=self._matching(request.filter))

    async def stream_containers(
        self, request: v1.StreamContainersRequest
    ) -> AsyncIterator[v1.StreamContainersResponse]:
        """Yield the containers that match the filter, some in each message."""
        for part in chunks(self._matching(request.filter)):
            yield v1.StreamContainersResponse(containers=part)

    def update_container_resources(
        self, request: v1.UpdateContainerResourcesRequest
    ) -> v1.UpdateContainerResourcesResponse:
        """Apply the limits that are set in the request, in any state of the container."""
        container = self._store.find_container(request.container_id, "failed to find container")
        container.resources.MergeFrom(request.linux)
        self._store.touch()
        return v1.UpdateContainerResourcesResponse()

    def _find(self, id_: str) -> Container:
        return self._store.find_container(
            id_, f'an error occurred when try to find container "{id_}"'
        )

    def _end(self, container: Container, code: int) -> None:
        # A timer may fire for a container that was stopped or removed meanwhile.
        if container.state == v1.CONTAINER_RUNNING:
            self._store.exit(container, code)

    def _matching(self, wanted: v1.ContainerFilter) -> Iterator[v1.Container]:
        for container in with_prefix(self._store.containers.items(), wanted.id):
            if wanted.HasField("state") and wanted.state.state != container.state:
                continue
            if not container.sandbox.id.startswith(wanted.pod_sandbox_id):
                continue
            if matches(wanted.label_selector, container.config.labels):
                yield views.container_item(container)


def _details(container: Container) -> dict[str, object]:
    return {
        "sandboxID": container.sandbox.id,
        "pid": container.pid,
        "removing": False,
        "snapshotKey": container.id,
        "runtimeType": "io.containerd.runc.v2",
        "config": MessageToDict(container.config, preserving_proto_field_name=True),
    }
