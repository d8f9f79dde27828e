"""Checkpoints of containers and pods. They are kept in memory; no archive is written."""

from dataclasses import dataclass

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.embedded.services.containers import ContainerService
from criproxy.embedded.services.sandboxes import SandboxService
from criproxy.embedded.state.errors import invalid, not_found, unknown
from criproxy.embedded.state.objects import Container
from criproxy.embedded.state.store import Store


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    sandbox: v1.PodSandboxConfig
    runtime_handler: str
    containers: tuple[v1.ContainerConfig, ...]


class CheckpointService:
    """The checkpoint methods of the runtime service."""

    def __init__(
        self, store: Store, sandboxes: SandboxService, containers: ContainerService
    ) -> None:
        self._store = store
        self._sandboxes = sandboxes
        self._containers = containers
        self._pods: dict[str, _Checkpoint] = {}

    def checkpoint_container(
        self, request: v1.CheckpointContainerRequest
    ) -> v1.CheckpointContainerResponse:
        """Accept a checkpoint of a running container."""
        id_ = request.container_id
        container = self._store.find_container(
            id_, f'an error occurred when trying to find container "{id_}"'
        )
        _require_running(container)
        if not request.location:
            raise invalid("location of the checkpoint archive must be set")
        return v1.CheckpointContainerResponse()

    def checkpoint_pod(self, request: v1.CheckpointPodRequest) -> v1.CheckpointPodResponse:
        """Checkpoint a ready sandbox with its running containers, or with the named ones."""
        id_ = request.pod_sandbox_id
        sandbox = self._store.find_sandbox(
            id_, f'an error occurred when trying to find sandbox "{id_}"'
        )
        if not sandbox.ready:
            raise unknown(f'sandbox container "{sandbox.id}" is not running')
        if not request.output_path:
            raise invalid("output path of the checkpoint archive must be set")
        containers = [
            self._store.find_container(c, f'an error occurred when trying to find container "{c}"')
            for c in request.container_ids
        ] or [c for c in sandbox.containers.values() if c.state == v1.CONTAINER_RUNNING]
        for container in containers:
            _require_running(container)
        self._pods[request.output_path] = _Checkpoint(
            sandbox.config, sandbox.runtime_handler, tuple(c.config for c in containers)
        )
        return v1.CheckpointPodResponse()

    def restore_pod(self, request: v1.RestorePodRequest) -> v1.RestorePodResponse:
        """Run a checkpointed pod again, with the request's configurations if it has any."""
        checkpoint = self._pods.get(request.checkpoint_path)
        if checkpoint is None:
            raise not_found(f'failed to open checkpoint "{request.checkpoint_path}": not found')
        config = request.config if request.HasField("config") else checkpoint.sandbox
        pod = self._sandboxes.run_pod_sandbox(
            v1.RunPodSandboxRequest(
                config=config,
                runtime_handler=request.runtime_handler or checkpoint.runtime_handler,
            )
        )
        restored = []
        for container in list(request.container_configs) or checkpoint.containers:
            created = self._containers.create_container(
                v1.CreateContainerRequest(
                    pod_sandbox_id=pod.pod_sandbox_id, config=container, sandbox_config=config
                )
            )
            self._containers.start_container(
                v1.StartContainerRequest(container_id=created.container_id)
            )
            restored.append(
                v1.RestoredContainer(
                    name=container.metadata.name, container_id=created.container_id
                )
            )
        return v1.RestorePodResponse(
            pod_sandbox_id=pod.pod_sandbox_id, restored_containers=restored
        )


def _require_running(container: Container) -> None:
    if container.state != v1.CONTAINER_RUNNING:
        raise unknown(
            f'container "{container.id}" is in {container.state_name} state. '
            "only CONTAINER_RUNNING containers can be checkpointed"
        )
