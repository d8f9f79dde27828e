"""The stats methods of containers and sandboxes."""

import time
from collections.abc import AsyncIterator, Iterator

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.embedded.services.chunks import chunks
from criproxy.embedded.services.images import IMAGE_DIRECTORY
from criproxy.embedded.state.errors import unknown
from criproxy.embedded.state.objects import Container, Sandbox
from criproxy.embedded.state.store import Store, matches, with_prefix
from criproxy.embedded.state.usage import MIB, usage, value


class StatsService:
    """The stats methods of the runtime service."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def container_stats(self, request: v1.ContainerStatsRequest) -> v1.ContainerStatsResponse:
        """Return a running container's usage."""
        container = self._store.find_container(request.container_id, "failed to find container")
        if container.state != v1.CONTAINER_RUNNING:
            raise unknown("unexpected metrics response: []")
        return v1.ContainerStatsResponse(stats=_container_stats(container))

    def list_container_stats(
        self, request: v1.ListContainerStatsRequest
    ) -> v1.ListContainerStatsResponse:
        """Return the usage of the containers that match the filter."""
        return v1.ListContainerStatsResponse(stats=self._containers(request.filter))

    async def stream_container_stats(
        self, request: v1.StreamContainerStatsRequest
    ) -> AsyncIterator[v1.StreamContainerStatsResponse]:
        """Yield the usage of the containers that match the filter, some in each message."""
        for part in chunks(self._containers(request.filter)):
            yield v1.StreamContainerStatsResponse(container_stats=part)

    def pod_sandbox_stats(self, request: v1.PodSandboxStatsRequest) -> v1.PodSandboxStatsResponse:
        """Return a ready sandbox's usage."""
        id_ = request.pod_sandbox_id
        sandbox = self._store.find_sandbox(
            id_, f"an error occurred when trying to find sandbox {id_}"
        )
        if not sandbox.ready:
            raise unknown(
                f"failed to decode pod sandbox metrics {sandbox.id}: failed to get pod sandbox "
                f'stats since sandbox container "{sandbox.id}" is not in ready state'
            )
        return v1.PodSandboxStatsResponse(stats=self._sandbox_stats(sandbox))

    def list_pod_sandbox_stats(
        self, request: v1.ListPodSandboxStatsRequest
    ) -> v1.ListPodSandboxStatsResponse:
        """Return the usage of the ready sandboxes that match the filter.

        (containerd 1.6 fails as a whole when one of them is stopped; later ones leave it out.)
        """
        return v1.ListPodSandboxStatsResponse(stats=self._sandboxes(request.filter))

    async def stream_pod_sandbox_stats(
        self, request: v1.StreamPodSandboxStatsRequest
    ) -> AsyncIterator[v1.StreamPodSandboxStatsResponse]:
        """Yield the usage of the ready sandboxes that match the filter, some in each message."""
        for part in chunks(self._sandboxes(request.filter)):
            yield v1.StreamPodSandboxStatsResponse(pod_sandbox_stats=part)

    def _containers(self, wanted: v1.ContainerStatsFilter) -> Iterator[v1.ContainerStats]:
        for container in with_prefix(self._store.containers.items(), wanted.id):
            if not container.sandbox.id.startswith(wanted.pod_sandbox_id):
                continue
            if matches(wanted.label_selector, container.config.labels):
                yield _container_stats(container)

    def _sandboxes(self, wanted: v1.PodSandboxStatsFilter) -> Iterator[v1.PodSandboxStats]:
        for sandbox in with_prefix(self._store.sandboxes.items(), wanted.id):
            if sandbox.ready and matches(wanted.label_selector, sandbox.config.labels):
                yield self._sandbox_stats(sandbox)

    def _sandbox_stats(self, sandbox: Sandbox) -> v1.PodSandboxStats:
        containers = sandbox.containers.values()
        running = [c for c in containers if c.state == v1.CONTAINER_RUNNING]
        used = [usage(container) for container in running]
        now = time.time_ns()
        interface = v1.NetworkInterfaceUsage(
            name="eth0",
            rx_bytes=value(sum(u.received for u in used)),
            rx_errors=value(0),
            tx_bytes=value(sum(u.sent for u in used)),
            tx_errors=value(0),
        )
        linux = v1.LinuxPodSandboxStats(
            cpu=_cpu(now, sum(u.cpu_nanoseconds for u in used), sum(u.nano_cores for u in used)),
            memory=_memory(now, MIB + sum(u.working_set for u in used), rss=MIB // 4),
            network=v1.NetworkUsage(timestamp=now, default_interface=interface),
            process=v1.ProcessUsage(timestamp=now, process_count=value(1 + len(running))),
            containers=map(_container_stats, containers),
        )
        attributes = v1.PodSandboxAttributes(
            id=sandbox.id,
            metadata=sandbox.config.metadata,
            labels=sandbox.config.labels,
            annotations=sandbox.config.annotations,
        )
        return v1.PodSandboxStats(attributes=attributes, linux=linux)


def _container_stats(container: Container) -> v1.ContainerStats:
    """Return a container's stats; only its writable layer when it does not run."""
    used = usage(container)
    config = container.config
    stats = v1.ContainerStats(
        attributes=v1.ContainerAttributes(
            id=container.id,
            metadata=config.metadata,
            labels=config.labels,
            annotations=config.annotations,
        ),
        writable_layer=v1.FilesystemUsage(
            timestamp=used.timestamp,
            fs_id=v1.FilesystemIdentifier(mountpoint=IMAGE_DIRECTORY),
            used_bytes=value(used.layer_bytes),
            inodes_used=value(used.layer_inodes),
        ),
    )
    if container.state == v1.CONTAINER_RUNNING:
        stats.cpu.CopyFrom(_cpu(used.timestamp, used.cpu_nanoseconds, used.nano_cores))
        stats.memory.CopyFrom(
            _memory(used.timestamp, used.working_set, used.rss, used.available, used.page_faults)
        )
        stats.swap.timestamp = used.timestamp
        stats.swap.swap_usage_bytes.value = 0
    return stats


def _cpu(timestamp: int, nanoseconds: int, nano_cores: int) -> v1.CpuUsage:
    return v1.CpuUsage(
        timestamp=timestamp,
        usage_core_nano_seconds=value(nanoseconds),
        usage_nano_cores=value(nano_cores),
    )


def _memory(
    timestamp: int, working_set: int, rss: int, available: int = 0, page_faults: int = 0
) -> v1.MemoryUsage:
    return v1.MemoryUsage(
        timestamp=timestamp,
        working_set_bytes=value(working_set),
        available_bytes=value(available),
        usage_bytes=value(working_set),
        rss_bytes=value(rss),
        page_faults=value(page_faults),
        major_page_faults=value(0),
    )
