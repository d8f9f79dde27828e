"""The pod, container and image of a call in the call log, on /calls and in slow-call warnings."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from tests.support.criproxy import Criproxy
from tests.support.waiting import LIMIT_SECONDS, wait_until

NAMING = {"log": {"pods": True}}
POD = {"metadata": {"name": "web", "namespace": "shop", "uid": "u-1"}}
OF_POD = {"namespace": "shop", "pod": "web", "pod_uid": "u-1"}
CONTAINER = {"metadata": {"name": "app"}, "image": {"image": "example.test/app:1"}}


@pytest.fixture
def proxy(runtime: EmbeddedRuntime, short_dir: Path) -> Iterator[Criproxy]:
    """A proxy that names pods."""
    with Criproxy(short_dir, runtime.endpoint, config=NAMING) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Criproxy) -> Iterator[CriClient]:
    with CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client:
        yield client


def _subject(line: dict[str, Any]) -> dict[str, Any]:
    names = (
        "namespace",
        "pod",
        "pod_uid",
        "pod_id",
        "container",
        "container_id",
        "image",
    )
    return {name: line[name] for name in names if name in line}


def test_lines_of_a_pods_life(proxy: Criproxy, client: CriClient) -> None:
    """Every line of a pod's life names it, also those of calls that carry only an id."""
    client.PullImage(image=CONTAINER["image"], sandbox_config=POD)
    pod = client.RunPodSandbox(config=POD).pod_sandbox_id
    create = {"pod_sandbox_id": pod, "config": CONTAINER, "sandbox_config": POD}
    container = client.CreateContainer(**create).container_id
    client.StartContainer(container_id=container)
    client.StopContainer(container_id=container)
    client.RemoveContainer(container_id=container)
    client.StopPodSandbox(pod_sandbox_id=pod)
    client.RemovePodSandbox(pod_sandbox_id=pod)
    of_pod = OF_POD | {"pod_id": pod}
    image = {"image": "example.test/app:1"}
    of_container = of_pod | {"container": "app", "container_id": container} | image
    assert _subject(proxy.event("call", method="PullImage")) == OF_POD | image
    assert _subject(proxy.event("call", method="CreateContainer")) == of_container
    for method in ("StartContainer", "StopContainer", "RemoveContainer"):
        assert _subject(proxy.event("call", method=method)) == of_container
    for method in ("RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"):
        assert _subject(proxy.event("call", method=method)) == of_pod


def test_pods_of_before(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """A pod that was there before the daemon is known from one listing at its start."""
    with CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as client:
        pod = client.RunPodSandbox(config=POD).pod_sandbox_id
    with (
        Criproxy(short_dir, runtime.endpoint, config=NAMING) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        proxy.event("pods listed")
        client.StopPodSandbox(pod_sandbox_id=pod)
        line = proxy.event("call", method="StopPodSandbox")
        assert _subject(line) == OF_POD | {"pod_id": pod}


def test_calls_in_flight_and_slow_ones(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """/calls and the warning of a slow call name the pod and the image of a pull in flight."""
    rule = {"name": "hang", "match": {"methods": ["PullImage"]}, "delay": {"fixed": "1h"}}
    config = NAMING | {"rules": [rule], "slow": {"methods": {"PullImage": "50ms"}}}
    pull = {"image": CONTAINER["image"], "sandbox_config": POD}
    with (
        Criproxy(short_dir, runtime.endpoint, config=config) as proxy,
        CriClient(proxy.endpoint) as client,
    ):
        request = client.messages.PullImageRequest(**pull)
        call = client.raw("PullImage").future(request)
        named = OF_POD | {"image": "example.test/app:1"}
        assert _subject(proxy.event("slow call", method="PullImage")) == named
        (in_flight,) = json.loads(proxy.get("/calls")[1])["calls"]
        assert _subject(in_flight) == named
        call.cancel()
        wait_until(lambda: json.loads(proxy.get("/calls")[1])["calls"] == [], "end of the call")


def test_other_workers_know_new_pods(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """A pod that was made on a full listener is named in the lines of a restricted one."""
    restricted = f"unix://{short_dir}/ro.sock"
    listeners = [
        {"endpoint": f"unix://{short_dir}/proxy.sock", "runtime": runtime.endpoint},
        {"endpoint": restricted, "runtime": runtime.endpoint, "profile": "read-only"},
    ]
    with Criproxy(short_dir, config=NAMING | {"listeners": listeners}) as proxy:
        with CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client:
            pod = client.RunPodSandbox(config=POD).pod_sandbox_id
        with CriClient(restricted, timeout=LIMIT_SECONDS) as client:

            def named() -> bool:
                client.PodSandboxStatus(pod_sandbox_id=pod)
                lines = proxy.events("call", method="PodSandboxStatus")
                return any(_subject(line) == OF_POD | {"pod_id": pod} for line in lines)

            wait_until(named, "the pod's name in the other worker")


def test_not_configured(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """By default lines name nothing, and the runtime's pods are not listed."""
    with (
        Criproxy(short_dir, runtime.endpoint) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        client.RunPodSandbox(config=POD)
        assert _subject(proxy.event("call", method="RunPodSandbox")) == {}
        assert not proxy.events("pods listed")
