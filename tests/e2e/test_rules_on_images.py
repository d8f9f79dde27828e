"""Rules about images on a real containerd: renamed images, and limits on concurrent pulls."""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from criproxy.client import CriClient
from tests.e2e import pod_life
from tests.e2e.recorder import Recorder
from tests.support import registry
from tests.support.containerd import Containerd
from tests.support.criproxy import Criproxy
from tests.support.pods import Pods
from tests.support.program import program
from tests.support.registry import Registry
from tests.support.registry_gate import RegistryGate
from tests.support.requirements import require
from tests.support.waiting import LIMIT_SECONDS, wait_until

pytestmark = pytest.mark.e2e

HUB = "docker.io/library/web:1"
"""The name that clients use. The runtime never asks Docker Hub: it is a name that it never sees."""


@pytest.fixture
def source(short_dir: Path) -> Iterator[Registry]:
    require(registry.missing())
    with Registry(short_dir / "registry") as source:
        yield source


# Other names
# -----------


@pytest.fixture
def mirrored(runtime: Containerd, source: Registry) -> str:
    """The name of the image at the runtime, which has yet to pull it."""
    source.push(runtime, "library/web:1")
    return f"{source.host}/library/web:1"


@pytest.fixture
def proxy(runtime: Containerd, mirrored: str, short_dir: Path) -> Iterator[Criproxy]:
    rename = {
        "name": "mirror",
        "match": {"methods": ["*Image*", "*Container*"]},
        "rewrite_images": [{"from": "docker.io/*", "to": mirrored.replace("library/web:1", "*")}],
    }
    with Criproxy(short_dir, runtime.endpoint, config={"rules": [rename]}) as proxy:
        yield proxy


def test_pod_lives_with_a_renamed_image(
    runtime: Containerd, proxy: Criproxy, mirrored: str, short_dir: Path, version: str
) -> None:
    """Each answer in the life of an image and its pod is the runtime's but for the image's name."""
    logs = short_dir / "logs"
    logs.mkdir()
    transcripts = []
    for endpoint, image in ((runtime.endpoint, mirrored), (proxy.endpoint, HUB)):
        with Recorder(endpoint, version) as client:
            client.name(image.removesuffix(":1"), "<image>")
            pod = pod_life.Pod("web", logs, runtime.cgroup_parent, image)
            client.call("PullImage", image={"image": image})
            pod_life.live(client, pod)
            client.call("RemoveImage", image={"image": image})
            client.call("ImageStatus", image={"image": image})
            client.call("ListImages")
            transcripts.append(client.transcript())
        pod.log_file.unlink()
    direct, proxied = transcripts
    for number, (expected, got) in enumerate(zip(direct, proxied, strict=True)):
        assert got == expected, f"call {number}"
    assert "<image>" in repr(proxied)
    assert proxy.metric("criproxy_rule_errors_total") == 0


def test_either_side_knows_one_name(
    runtime: Containerd, proxy: Criproxy, mirrored: str, version: str
) -> None:
    """The client receives only the names that it uses, the runtime only those of the mirror."""
    with (
        Pods(runtime, version) as pods,
        CriClient(proxy.endpoint, version, timeout=LIMIT_SECONDS) as client,
    ):
        short = {"image": "web:1"}
        client.PullImage(image=short, sandbox_config={"metadata": {"name": "web"}})
        pod = pods.pod(client, "web")
        container = pods.start(client, pod, image=short)
        for asked, here, elsewhere in ((client, HUB, mirrored), (pods.direct, mirrored, HUB)):
            for answer in _told(asked, here, pod, container):
                assert here.removesuffix(":1") in answer
                assert elsewhere.removesuffix(":1") not in answer
        assert not pods.direct.ImageStatus(image={"image": HUB}).HasField("image")
        client.RemoveContainer(container_id=container)
        client.RemoveImage(image={"image": HUB})
        assert not pods.direct.ImageStatus(image={"image": mirrored}).HasField("image")
        assert mirrored not in str(pods.direct.ListImages())


def _told(client: CriClient, image: str, pod: str, container: str) -> list[str]:
    """All answers that name images."""
    spec = {"image": image}
    answers = [
        client.ImageStatus(image=spec),
        client.ListImages(),
        client.ListImages(filter={"image": spec}),
        client.ContainerStatus(container_id=container),
        client.ListContainers(filter={"pod_sandbox_id": pod}),
    ]
    return [str(answer) for answer in answers]


# Pulls in turn
# -------------

IMAGES = [f"test/{name}" for name in ("a", "b", "c", "d", "e")]

PULL = """
import sys
from criproxy.client import CriClient
with CriClient(sys.argv[1], timeout=60) as client:
    client.PullImage(image={"image": sys.argv[2]})
"""


@pytest.fixture
def gate(runtime: Containerd, source: Registry) -> Iterator[RegistryGate]:
    source.push(runtime, *(f"{image}:1" for image in IMAGES))
    with RegistryGate(source) as gate:
        yield gate
        with CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as direct:
            for image in IMAGES:
                direct.RemoveImage(image={"image": f"{gate.host}/{image}:1"})


def _limit(name: str, **callers: Any) -> dict[str, Any]:
    match = {"methods": ["PullImage"], "callers": callers}
    return {"name": name, "match": match, "limit": {"in_flight": 1}}


def _pull(client: CriClient, gate: RegistryGate, image: str) -> Any:
    """Begin a pull."""
    request = client.messages.PullImageRequest(image={"image": f"{gate.host}/{image}:1"})
    return client.raw("PullImage").future(request, timeout=LIMIT_SECONDS)


def _wait_in_flight(proxy: Criproxy, pulls: int) -> None:
    """Wait until so many pulls have come to the proxy and have not ended."""

    def reached() -> bool:
        return proxy.metric("criproxy_calls_in_flight", method="PullImage") == pulls

    wait_until(reached, f"{pulls} pulls")


@pytest.mark.parametrize("clients", [1, 5])
def test_pulls_take_turns(
    runtime: Containerd, gate: RegistryGate, short_dir: Path, clients: int
) -> None:
    """Of five pulls asked for at once one is at the runtime, the next when it is done; all succeed.

    On one connection and on several.
    """
    with ExitStack() as stack:
        config = {"rules": [_limit("one-pull")]}
        proxy = stack.enter_context(Criproxy(short_dir, runtime.endpoint, config=config))
        asked = [
            stack.enter_context(CriClient(proxy.endpoint, timeout=LIMIT_SECONDS))
            for _ in range(clients)
        ]
        pulls = [_pull(asked[number % clients], gate, image) for number, image in enumerate(IMAGES)]
        _wait_in_flight(proxy, 5)
        turns: list[str] = []
        while len(turns) < 5:
            (now,) = wait_until(lambda: gate.waiting, "pull at the registry")
            turns.append(now)
            gate.open_for(now)
            _wait_in_flight(proxy, 5 - len(turns))
        assert all(pull.result().image_ref for pull in pulls)
        assert sorted(turns) == IMAGES
        assert [image for image, _ in groupby(gate.received)] == turns
        wait_until(lambda: proxy.metric("criproxy_held_streams") == 0, "nothing held")


def test_pulls_take_turns_across_a_reload(
    runtime: Containerd, gate: RegistryGate, short_dir: Path
) -> None:
    """A limit that a reload leaves as it is counts the pulls of before, waiting ones too."""
    limit = _limit("one-pull")
    other = {"name": "other", "match": {"methods": ["Status"]}, "deny": {}}
    first, second, third = IMAGES[:3]
    with (
        Criproxy(short_dir, runtime.endpoint, config={"rules": [limit]}) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        pulls = [_pull(client, gate, first)]
        wait_until(lambda: gate.waiting == {first}, "pull at the registry")
        pulls.append(_pull(client, gate, second))
        _wait_in_flight(proxy, 2)
        proxy.reload(rules=[other, limit])
        proxy.event("rules loaded")
        pulls.append(_pull(client, gate, third))
        _wait_in_flight(proxy, 3)
        for left, image in ((2, first), (1, second), (0, third)):
            wait_until(lambda: gate.waiting, "pull at the registry")
            assert gate.waiting == {image}
            gate.open_for(image)
            _wait_in_flight(proxy, left)
        assert all(pull.result().image_ref for pull in pulls)
        assert [image for image, _ in groupby(gate.received)] == [first, second, third]


def test_pulls_without_a_limit(runtime: Containerd, gate: RegistryGate, short_dir: Path) -> None:
    """Without it all five are at the runtime at once: what takes turns does so by the rule."""
    with (
        Criproxy(short_dir, runtime.endpoint) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        pulls = [_pull(client, gate, image) for image in IMAGES]
        wait_until(lambda: gate.waiting == {*IMAGES}, "five pulls at the registry")
        gate.open_for(*IMAGES)
        assert all(pull.result().image_ref for pull in pulls)


def test_kubelet_has_its_own_share(
    runtime: Containerd, gate: RegistryGate, short_dir: Path
) -> None:
    """While others' pulls wait for each other the kubelet's goes on: its limit is another one."""
    limits = [_limit("kubelet", executable=["*/kubelet"]), _limit("others")]
    first, second, kubelets = IMAGES[:3]
    with (
        Criproxy(short_dir, runtime.endpoint, config={"rules": limits}) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        pulls = [_pull(client, gate, first)]
        wait_until(lambda: gate.waiting == {first}, "pull at the registry")
        pulls.append(_pull(client, gate, second))
        _wait_in_flight(proxy, 2)
        wanted = f"{gate.host}/{kubelets}:1"
        with program(short_dir / "kubelet", PULL, proxy.endpoint, wanted) as kubelet:
            wait_until(lambda: gate.waiting == {first, kubelets}, "the kubelet's pull")
            gate.open_for(kubelets)
            assert kubelet.wait() == 0, kubelet.stderr
        assert gate.waiting == {first}
        gate.open_for(first, second)
        assert all(pull.result().image_ref for pull in pulls)
        matches = [
            proxy.metric("criproxy_rule_matches_total", rule=name) for name in ("kubelet", "others")
        ]
        assert matches == [1, 2]
