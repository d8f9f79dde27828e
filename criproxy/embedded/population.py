"""Fills the store with images and pods that resemble a busy node's."""

import json
import uuid
from collections.abc import Iterator
from typing import Final

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.embedded.services.images import PRELOADED, add_image
from criproxy.embedded.state.store import Store

APPS: Final = ("checkout", "search", "gateway", "ledger", "mailer", "metrics-agent")
IMAGE: Final = PRELOADED[2]


def populate(store: Store, pods: int) -> None:
    """Add the preloaded images, and ``pods`` ready sandboxes with a running container each."""
    for name in PRELOADED:
        add_image(store, name)
    image = add_image(store, IMAGE)
    for config in _pods(pods):
        sandbox = store.add_sandbox(config, "")
        container = _container(config)
        log_path = f"{config.log_directory}/{container.log_path}"
        store.start(store.add_container(sandbox, container, image, log_path))


def _pods(count: int) -> Iterator[v1.PodSandboxConfig]:
    for index in range(count):
        app = APPS[index % len(APPS)]
        name = f"{app}-7d9c6b5f84-{index:05d}"
        uid = str(uuid.uuid5(uuid.NAMESPACE_DNS, name))
        namespace = f"team-{index % 4}"
        yield v1.PodSandboxConfig(
            metadata=v1.PodSandboxMetadata(name=name, uid=uid, namespace=namespace),
            hostname=name,
            log_directory=f"/var/log/pods/{namespace}_{name}_{uid}",
            labels={
                "app.kubernetes.io/name": app,
                "app.kubernetes.io/part-of": "shop",
                "app.kubernetes.io/version": "1.27",
                "io.kubernetes.pod.name": name,
                "io.kubernetes.pod.namespace": namespace,
                "io.kubernetes.pod.uid": uid,
                "pod-template-hash": "7d9c6b5f84",
            },
            annotations={
                "kubernetes.io/config.seen": "2026-01-05T09:30:00.000000000Z",
                "kubernetes.io/config.source": "api",
                "prometheus.io/scrape": "true",
                "prometheus.io/port": "8080",
            },
            linux=v1.LinuxPodSandboxConfig(cgroup_parent=f"/kubepods/burstable/pod{uid}"),
        )


def _container(pod: v1.PodSandboxConfig) -> v1.ContainerConfig:
    app = pod.labels["app.kubernetes.io/name"]
    environment = {
        "POD_NAME": pod.metadata.name,
        "POD_NAMESPACE": pod.metadata.namespace,
        "KUBERNETES_SERVICE_HOST": "10.96.0.1",
        "KUBERNETES_SERVICE_PORT": "443",
        "GOMAXPROCS": "2",
    }
    ports = [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]
    return v1.ContainerConfig(
        metadata=v1.ContainerMetadata(name=app),
        image=v1.ImageSpec(image=IMAGE, user_specified_image=IMAGE),
        envs=[v1.KeyValue(key=key, value=value.encode()) for key, value in environment.items()],
        labels={
            "io.kubernetes.container.name": app,
            "io.kubernetes.pod.name": pod.metadata.name,
            "io.kubernetes.pod.namespace": pod.metadata.namespace,
            "io.kubernetes.pod.uid": pod.metadata.uid,
        },
        annotations={
            "io.kubernetes.container.hash": pod.metadata.uid[:8],
            "io.kubernetes.container.ports": json.dumps(ports),
            "io.kubernetes.container.restartCount": "0",
            "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
            "io.kubernetes.container.terminationMessagePolicy": "File",
            "io.kubernetes.pod.terminationGracePeriod": "30",
        },
        log_path=f"{app}/0.log",
        linux=v1.LinuxContainerConfig(
            resources=v1.LinuxContainerResources(
                cpu_period=100_000, cpu_shares=256, memory_limit_in_bytes=256 << 20
            )
        ),
    )
