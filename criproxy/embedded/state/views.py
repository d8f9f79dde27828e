"""Converts the state into CRI messages."""

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.embedded.state.objects import Container, Image, Sandbox


def sandbox_state(sandbox: Sandbox) -> v1.PodSandboxState:
    """Return SANDBOX_READY or SANDBOX_NOTREADY."""
    return v1.SANDBOX_READY if sandbox.ready else v1.SANDBOX_NOTREADY


def sandbox_item(sandbox: Sandbox) -> v1.PodSandbox:
    """Return a sandbox as lists show it."""
    return v1.PodSandbox(
        id=sandbox.id,
        metadata=sandbox.config.metadata,
        state=sandbox_state(sandbox),
        created_at=sandbox.created_at,
        labels=sandbox.config.labels,
        annotations=sandbox.config.annotations,
        runtime_handler=sandbox.runtime_handler,
    )


def sandbox_status(sandbox: Sandbox) -> v1.PodSandboxStatus:
    """Return a sandbox's status."""
    options = sandbox.config.linux.security_context.namespace_options
    return v1.PodSandboxStatus(
        id=sandbox.id,
        metadata=sandbox.config.metadata,
        state=sandbox_state(sandbox),
        created_at=sandbox.created_at,
        network=v1.PodSandboxNetworkStatus(ip=sandbox.ip),
        linux=v1.LinuxPodSandboxStatus(namespaces=v1.Namespace(options=options)),
        labels=sandbox.config.labels,
        annotations=sandbox.config.annotations,
        runtime_handler=sandbox.runtime_handler,
    )


def container_item(container: Container) -> v1.Container:
    """Return a container as lists show it."""
    return v1.Container(
        id=container.id,
        pod_sandbox_id=container.sandbox.id,
        metadata=container.config.metadata,
        image=container.config.image,
        image_ref=container.image_id,
        image_id=container.image_id,
        state=container.state,
        created_at=container.created_at,
        labels=container.config.labels,
        annotations=container.config.annotations,
    )


def container_status(container: Container, image: Image | None) -> v1.ContainerStatus:
    """Return a container's status; ``image`` is None if it has been removed."""
    config = container.config
    spec = v1.ImageSpec()
    spec.CopyFrom(config.image)
    if image and image.repo_tags:
        spec.image = image.repo_tags[0]
    user = v1.ContainerUser()
    user.linux.uid = config.linux.security_context.run_as_user.value
    user.linux.gid = config.linux.security_context.run_as_group.value
    return v1.ContainerStatus(
        id=container.id,
        metadata=config.metadata,
        state=container.state,
        created_at=container.created_at,
        started_at=container.started_at,
        finished_at=container.finished_at,
        exit_code=container.exit_code,
        image=spec,
        image_ref=image.repo_digests[0] if image and image.repo_digests else container.image_id,
        image_id=container.image_id,
        reason=container.reason,
        message=container.message,
        labels=config.labels,
        annotations=config.annotations,
        mounts=config.mounts,
        log_path=container.log_path,
        resources=v1.ContainerResources(linux=container.resources),
        user=user,
        stop_signal=config.stop_signal,
    )


def image(item: Image) -> v1.Image:
    """Return an image as lists and its status show it."""
    return v1.Image(
        id=item.id,
        repo_tags=item.repo_tags,
        repo_digests=item.repo_digests,
        size=item.size,
        pinned=item.pinned,
    )
