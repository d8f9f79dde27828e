"""Which pod and container an id means, from calls that passed by and from the first listing."""

from types import ModuleType
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from criproxy.cri.naming import resolve
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.cri.pb import runtime_v1alpha2_pb2 as v1alpha2
from criproxy.rules import pod_cache as module
from criproxy.rules.errors import EvaluationError
from criproxy.rules.facts import Container, Pod
from criproxy.rules.pod_cache import PodCache, _Table

POD_ID = "aa" * 32
CONTAINER_ID = "bb" * 32
POD = Pod(
    id=POD_ID,
    namespace="shop",
    name="web-0",
    uid="1234",
    labels={"app": "web"},
    annotations={"team": "blue"},
)
CONTAINER = Container(
    id=CONTAINER_ID,
    name="nginx",
    image="nginx:1",
    labels={"part": "front"},
    annotations={"hash": "5"},
    pod_id=POD_ID,
)

versions = pytest.mark.parametrize("api", [v1, v1alpha2], ids=["v1", "v1alpha2"])


def path(name: str, api: ModuleType = v1) -> bytes:
    service = "Image" if "Image" in name else "Runtime"
    return f"/{api.DESCRIPTOR.package}.{service}Service/{name}".encode()


def learn(memory: PodCache, name: str, request: Message, response: Message) -> None:
    version = v1 if request.DESCRIPTOR.file is v1.DESCRIPTOR else v1alpha2
    where = path(name, version)
    assert memory.wants(where)
    memory.update(where, request.SerializeToString(), response.SerializeToString())


def pod_config(api: Any = v1, pod: Pod = POD) -> Any:
    return api.PodSandboxConfig(
        metadata=api.PodSandboxMetadata(name=pod.name, namespace=pod.namespace, uid=pod.uid),
        labels=pod.labels,
        annotations=pod.annotations,
    )


def container_config(api: Any = v1, container: Container = CONTAINER) -> Any:
    return api.ContainerConfig(
        metadata=api.ContainerMetadata(name=container.name),
        image=api.ImageSpec(image=container.image),
        labels=container.labels,
        annotations=container.annotations,
    )


def run_pod(memory: PodCache, id_: str = POD_ID, api: Any = v1) -> None:
    learn(
        memory,
        "RunPodSandbox",
        api.RunPodSandboxRequest(config=pod_config(api)),
        api.RunPodSandboxResponse(pod_sandbox_id=id_),
    )


def create_container(
    memory: PodCache, id_: str = CONTAINER_ID, pod_id: str = POD_ID, api: Any = v1
) -> None:
    learn(
        memory,
        "CreateContainer",
        api.CreateContainerRequest(pod_sandbox_id=pod_id, config=container_config(api)),
        api.CreateContainerResponse(container_id=id_),
    )


def pod_of(memory: PodCache, id_: str) -> Pod | None:
    return memory.find(
        resolve(path("StopPodSandbox")), v1.StopPodSandboxRequest(pod_sandbox_id=id_)
    )[0]


def found(memory: PodCache, id_: str) -> tuple[Pod | None, Container | None]:
    return memory.find(resolve(path("StopContainer")), v1.StopContainerRequest(container_id=id_))


@versions
def test_learns(api: Any) -> None:
    """What RunPodSandbox and CreateContainer gave out is known by its id, in either API version."""
    memory = PodCache()
    run_pod(memory, api=api)
    create_container(memory, api=api)
    assert pod_of(memory, POD_ID) == POD
    for request in (
        api.ExecSyncRequest(container_id=CONTAINER_ID),
        api.StartContainerRequest(container_id=CONTAINER_ID),
        api.ContainerStatusRequest(container_id=CONTAINER_ID),
    ):
        name = request.DESCRIPTOR.name.removesuffix("Request")
        assert memory.find(resolve(path(name, api)), request) == (POD, CONTAINER)


def test_wants() -> None:
    """Only calls that make or remove something are read; listings pass unread."""
    memory = PodCache()
    for name in ("ListPodSandbox", "ListContainers", "ContainerStatus", "PullImage", "Nothing"):
        assert not memory.wants(path(name))
    memory.update(path("ListContainers"), b"\xff", b"\xff")


def test_configurations() -> None:
    """A call that carries a pod's or a container's configuration is about what that says."""
    memory = PodCache()
    pod = Pod("", POD.namespace, POD.name, POD.uid, POD.labels, POD.annotations)
    for request in (
        v1.RunPodSandboxRequest(config=pod_config()),
        v1.PullImageRequest(sandbox_config=pod_config()),
    ):
        name = request.DESCRIPTOR.name.removesuffix("Request")
        assert memory.find(resolve(path(name)), request) == (pod, None)
    create = v1.CreateContainerRequest(
        pod_sandbox_id=POD_ID, sandbox_config=pod_config(), config=container_config()
    )
    known_pod, container = memory.find(resolve(path("CreateContainer")), create)
    assert known_pod == pod
    assert container is not None
    assert (container.id, container.name, container.image) == ("", "nginx", "nginx:1")


def test_an_id_counts_first() -> None:
    """A client cannot pass for another pod with a configuration beside a pod's id."""
    memory = PodCache()
    run_pod(memory)
    claimed = pod_config(pod=Pod("", "kube-system", "x", "y"))
    request = v1.CreateContainerRequest(
        pod_sandbox_id=POD_ID, sandbox_config=claimed, config=container_config()
    )
    pod, container = memory.find(resolve(path("CreateContainer")), request)
    assert pod == POD
    assert container is not None
    assert container.pod_id == POD_ID


def test_what_is_not_known() -> None:
    """Unknown ids, empty ones, those of a filter, and calls outside the CRI are about nobody."""
    memory = PodCache()
    run_pod(memory)
    create_container(memory)
    nobody = (None, None)
    assert found(memory, "cc") == found(memory, "") == nobody
    listing = v1.ListContainersRequest(filter=v1.ContainerFilter(id=CONTAINER_ID))
    assert memory.find(resolve(path("ListContainers")), listing) == nobody
    assert memory.find(resolve(path("Version")), v1.VersionRequest()) == nobody
    request = v1.StopContainerRequest(container_id=CONTAINER_ID)
    assert memory.find(resolve(b"/other.Service/Stop"), request) == nobody


def test_beginning_of_an_id() -> None:
    """What only one id begins with stands for that id, as at the runtime; else for none."""
    memory = PodCache()
    run_pod(memory, "aabb")
    run_pod(memory, "aabc")
    assert (known := pod_of(memory, "aabc")) is not None
    assert known.id == "aabc"
    for beginning in ("a", "aab"):
        assert pod_of(memory, beginning) is None
    create_container(memory, CONTAINER_ID, pod_id="aabb")
    pod, container = found(memory, "b")
    assert pod is not None
    assert container is not None
    assert (pod.id, container.id) == ("aabb", CONTAINER_ID)
    assert found(memory, CONTAINER_ID + "b") == (None, None)


def test_created_by_the_beginning_of_an_id() -> None:
    """A container that was created with a shortened pod id is that pod's."""
    memory = PodCache()
    run_pod(memory)
    create_container(memory, pod_id="aaaa")
    assert found(memory, CONTAINER_ID) == (POD, CONTAINER)


def test_forgets() -> None:
    """What is removed is forgotten; with a pod go its containers, and no others."""
    memory = PodCache()
    run_pod(memory)
    run_pod(memory, "cc")
    create_container(memory)
    create_container(memory, "dd")
    create_container(memory, "ee", pod_id="cc")
    learn(
        memory,
        "RemoveContainer",
        v1.RemoveContainerRequest(container_id="d"),
        v1.RemoveContainerResponse(),
    )
    assert found(memory, "dd") == (None, None)
    for _ in range(2):  # to remove again is no error at the runtime
        learn(
            memory,
            "RemovePodSandbox",
            v1.RemovePodSandboxRequest(pod_sandbox_id=POD_ID),
            v1.RemovePodSandboxResponse(),
        )
    assert pod_of(memory, POD_ID) is None
    assert found(memory, CONTAINER_ID) == (None, None)
    assert found(memory, "ee")[1] is not None


def test_restored() -> None:
    """A restored pod and its containers are known like those that were made."""
    memory = PodCache()
    learn(
        memory,
        "RestorePod",
        v1.RestorePodRequest(config=pod_config(), container_configs=[container_config()]),
        v1.RestorePodResponse(
            pod_sandbox_id=POD_ID,
            restored_containers=[
                v1.RestoredContainer(name="nginx", container_id=CONTAINER_ID),
                v1.RestoredContainer(name="unasked", container_id="ff"),
            ],
        ),
    )
    assert found(memory, CONTAINER_ID) == (POD, CONTAINER)
    assert found(memory, "ff") == (None, None)


def listings(api: Any = v1) -> tuple[bytes, bytes]:
    config, inner = pod_config(api), container_config(api)
    pods = api.ListPodSandboxResponse(
        items=[
            api.PodSandbox(
                id=POD_ID,
                metadata=config.metadata,
                labels=config.labels,
                annotations=config.annotations,
                created_at=5,
            )
        ]
    )
    containers = api.ListContainersResponse(
        containers=[
            api.Container(
                id=CONTAINER_ID,
                pod_sandbox_id=POD_ID,
                metadata=inner.metadata,
                image=inner.image,
                labels=inner.labels,
                annotations=inner.annotations,
                created_at=6,
            )
        ]
    )
    return pods.SerializeToString(), containers.SerializeToString()


@versions
def test_listed(api: Any) -> None:
    """What the runtime listed is known as if it had been seen made, in either API version."""
    memory = PodCache()
    memory.add_listing(*listings(api))
    assert found(memory, CONTAINER_ID) == (POD, CONTAINER)
    assert found(memory, CONTAINER_ID[:12]) == (POD, CONTAINER)


def test_listed_late() -> None:
    """What was learned from calls while the listing was under way stays."""
    memory = PodCache()
    run_pod(memory, "cc")
    memory.add_listing(*listings())
    assert pod_of(memory, "cc") is not None
    assert pod_of(memory, POD_ID) == POD


def test_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the limit the oldest goes; what was listed is older than what was learned."""
    monkeypatch.setattr(module, "LIMIT", 3)
    memory = PodCache()
    run_pod(memory, "c1")
    memory.add_listing(*listings())
    run_pod(memory, "c2")
    assert pod_of(memory, POD_ID) is not None
    run_pod(memory, "c3")
    assert pod_of(memory, POD_ID) is None
    run_pod(memory, "c1")  # the same id again is not one more
    run_pod(memory, "c4")
    assert [pod_of(memory, id_) is not None for id_ in ("c1", "c2", "c3", "c4")] == [
        True,
        False,
        True,
        True,
    ]
    pods = [v1.PodSandbox(id=f"d{n}", created_at=9 - n) for n in range(9)]
    memory = PodCache()
    memory.add_listing(v1.ListPodSandboxResponse(items=pods).SerializeToString(), b"")
    assert [pod_of(memory, pod.id) is not None for pod in pods] == [True] * 3 + [False] * 6


def test_undecodable() -> None:
    """Bytes that are no message are told as such, and nothing is learned from them."""
    memory = PodCache()
    with pytest.raises(EvaluationError) as raised:
        memory.update(path("RunPodSandbox"), b"\xff", b"")
    assert raised.value.reason == "decode"
    with pytest.raises(EvaluationError):
        memory.add_listing(listings()[0], b"\xff")
    assert pod_of(memory, POD_ID) is None


@given(
    st.lists(st.tuples(st.booleans(), st.text("ab", min_size=1, max_size=4)), max_size=40),
    st.text("ab", max_size=4),
)
def test_like_a_plain_search(steps: list[tuple[bool, str]], asked: str) -> None:
    """After any making and removing, an id is found as by looking at each of them."""
    memory = PodCache()
    ids: set[str] = set()
    for made, id_ in steps:
        if made:
            run_pod(memory, id_)
            ids.add(id_)
        else:
            learn(
                memory,
                "RemovePodSandbox",
                v1.RemovePodSandboxRequest(pod_sandbox_id=id_),
                v1.RemovePodSandboxResponse(),
            )
            ids.discard(_plain(ids, id_) or id_)
    known = pod_of(memory, asked)
    assert (known.id if known else None) == _plain(ids, asked)


def _plain(ids: set[str], asked: str) -> str | None:
    if asked in ids or not asked:
        return asked or None
    begin = [id_ for id_ in ids if id_.startswith(asked)]
    return begin[0] if len(begin) == 1 else None


def test_container_of_an_uncertain_pod() -> None:
    """A container whose pod is known by the beginning of its id alone is nobody's: that of a pod
    which came later may be the same."""
    memory = PodCache()
    listed = v1.ListContainersResponse(containers=[v1.Container(id="c", pod_sandbox_id="po")])
    pods = v1.ListPodSandboxResponse(items=[v1.PodSandbox(id="pod")])
    memory.add_listing(pods.SerializeToString(), listed.SerializeToString())
    assert memory.container_only("c") == (None, None)
    assert memory.container_only("pod") == (None, None)
    assert memory.pod("") is None
    found = memory.pod("po")
    assert found is not None
    assert found.id == "pod"


def test_lookup_beside_a_change() -> None:
    """What is forgotten while it is being looked up on another thread is not found: that is all."""

    class Id(str):
        def startswith(self, *arguments: Any) -> bool:
            table.remove(self)
            return super().startswith(*arguments)

    table = _Table[Pod]()
    table.add(Pod(Id("abc"), "shop", "web", "u"))
    assert table.find("ab") is None
    assert len(table) == 0
