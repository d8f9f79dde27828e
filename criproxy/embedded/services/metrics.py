"""The metrics methods, with cAdvisor's metric names."""

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.embedded.services.chunks import chunks
from criproxy.embedded.state.objects import Container, Sandbox
from criproxy.embedded.state.store import Store
from criproxy.embedded.state.usage import Usage, usage, value

LABEL_KEYS: Final = ("id", "name", "image")


@dataclass(frozen=True, slots=True)
class _Family:
    name: str
    help: str
    kind: v1.MetricType
    read: Callable[[Usage], int]


_FAMILIES: Final = (
    _Family(
        "container_cpu_usage_seconds_total",
        "CPU time consumed, in seconds.",
        v1.COUNTER,
        lambda used: used.cpu_nanoseconds // 1_000_000_000,
    ),
    _Family(
        "container_memory_working_set_bytes",
        "Memory that cannot be reclaimed at once, in bytes.",
        v1.GAUGE,
        lambda used: used.working_set,
    ),
    _Family("container_memory_rss", "Anonymous memory, in bytes.", v1.GAUGE, lambda used: used.rss),
    _Family(
        "container_fs_usage_bytes",
        "Bytes in the writable layer.",
        v1.GAUGE,
        lambda used: used.layer_bytes,
    ),
)


class MetricsService:
    """The metrics methods of the runtime service."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def list_metric_descriptors(
        self, _: v1.ListMetricDescriptorsRequest
    ) -> v1.ListMetricDescriptorsResponse:
        """Return the metrics with the order of their labels."""
        descriptors = [
            v1.MetricDescriptor(name=family.name, help=family.help, label_keys=LABEL_KEYS)
            for family in _FAMILIES
        ]
        return v1.ListMetricDescriptorsResponse(descriptors=descriptors)

    def list_pod_sandbox_metrics(
        self, _: v1.ListPodSandboxMetricsRequest
    ) -> v1.ListPodSandboxMetricsResponse:
        """Return the metrics of every ready sandbox and its running containers."""
        return v1.ListPodSandboxMetricsResponse(pod_metrics=self._all())

    async def stream_pod_sandbox_metrics(
        self, _: v1.StreamPodSandboxMetricsRequest
    ) -> AsyncIterator[v1.StreamPodSandboxMetricsResponse]:
        """Yield the metrics of the sandboxes, some in each message."""
        for part in chunks(self._all()):
            yield v1.StreamPodSandboxMetricsResponse(pod_sandbox_metrics=part)

    def _all(self) -> Iterator[v1.PodSandboxMetrics]:
        return (self._pod(s) for s in self._store.sandboxes.values() if s.ready)

    def _pod(self, sandbox: Sandbox) -> v1.PodSandboxMetrics:
        running = [
            container
            for container in sandbox.containers.values()
            if container.state == v1.CONTAINER_RUNNING
        ]
        labels = (sandbox.id, sandbox.config.metadata.name, "")
        network = v1.Metric(
            name="container_network_receive_bytes_total",
            timestamp=time.time_ns(),
            metric_type=v1.COUNTER,
            label_values=labels,
            value=value(sum(usage(container).received for container in running)),
        )
        return v1.PodSandboxMetrics(
            pod_sandbox_id=sandbox.id,
            metrics=[network],
            container_metrics=[
                v1.ContainerMetrics(container_id=container.id, metrics=_metrics(container))
                for container in running
            ],
        )


def _metrics(container: Container) -> Sequence[v1.Metric]:
    used = usage(container)
    labels = (container.id, container.config.metadata.name, container.config.image.image)
    return [
        v1.Metric(
            name=family.name,
            timestamp=used.timestamp,
            metric_type=family.kind,
            label_values=labels,
            value=value(family.read(used)),
        )
        for family in _FAMILIES
    ]
