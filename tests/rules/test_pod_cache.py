"""The pod cache, filled from calls and from the first listing."""

from dataclasses import replace
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
from criproxy.rules.facts import Container, Image, Pod
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


def update(pod_cache: PodCache, name: str, request: Message, response: Message) -> None:
    version = v1 if request.DESCRIPTOR.file is v1.DESCRIPTOR else v1alpha2
    where = path(name, version)
    assert pod_cache.wants(where)
    pod_cache.update(where, request.SerializeToString(), response.SerializeToString())


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


def run_pod(pod_cache: PodCache, id_: str = POD_ID, api: Any = v1) -> None:
    update(
        pod_cache,
        "RunPodSandbox",
        api.RunPodSandboxRequest(config=pod_config(api)),
        api.RunPodSandboxResponse(pod_sandbox_id=id_),
    )


def create_container(
    pod_cache: PodCache, id_: str = CONTAINER_ID, pod_id: str = POD_ID, api: Any = v1
) -> None:
    update(
        pod_cache,
        "CreateContainer",
        api.CreateContainerRequest(pod_sandbox_id=pod_id, config=container_config(api)),
        api.CreateContainerResponse(container_id=id_),
    )


def pod_of(pod_cache: PodCache, id_: str) -> Pod | None:
    return pod_cache.find(
        resolve(path("StopPodSandbox")), v1.StopPodSandboxRequest(pod_sandbox_id=id_)
    )[0]


def found(pod_cache: PodCache, id_: str) -> tuple[Pod | None, Container | None]:
    return pod_cache.find(resolve(path("StopContainer")), v1.StopContainerRequest(container_id=id_))


@versions
def test_created_pods_and_containers(api: Any) -> None:
    """Pods and containers that a call created are found by id, in either API version."""
    pod_cache = PodCache()
    run_pod(pod_cache, api=api)
    create_container(pod_cache, api=api)
    assert pod_of(pod_cache, POD_ID) == POD
    for request in (
        api.ExecSyncRequest(container_id=CONTAINER_ID),
        api.StartContainerRequest(container_id=CONTAINER_ID),
        api.ContainerStatusRequest(container_id=CONTAINER_ID),
    ):
        name = request.DESCRIPTOR.name.removesuffix("Request")
        assert pod_cache.find(resolve(path(name, api)), request) == (POD, CONTAINER)


def test_wants() -> None:
    """Only calls that create or remove pods and containers update the cache; listings do not."""
    pod_cache = PodCache()
    for name in ("ListPodSandbox", "ListContainers", "ContainerStatus", "ImageStatus", "Nothing"):
        assert not pod_cache.wants(path(name))
    pod_cache.update(path("ListContainers"), b"\xff", b"\xff")


def test_configurations() -> None:
    """A call with the configuration of a pod or container is about that pod or container."""
    pod_cache = PodCache()
    pod = Pod("", POD.namespace, POD.name, POD.uid, POD.labels, POD.annotations)
    for request in (
        v1.RunPodSandboxRequest(config=pod_config()),
        v1.PullImageRequest(sandbox_config=pod_config()),
    ):
        name = request.DESCRIPTOR.name.removesuffix("Request")
        assert pod_cache.find(resolve(path(name)), request) == (pod, None)
    create = v1.CreateContainerRequest(
        pod_sandbox_id=POD_ID, sandbox_config=pod_config(), config=container_config()
    )
    known_pod, container = pod_cache.find(resolve(path("CreateContainer")), create)
    assert known_pod == pod
    assert container is not None
    assert (container.id, container.name, container.image) == ("", "nginx", "nginx:1")


def test_an_id_takes_precedence() -> None:
    """A client cannot claim another pod by a configuration beside a pod's id."""
    pod_cache = PodCache()
    run_pod(pod_cache)
    claimed = pod_config(pod=Pod("", "kube-system", "x", "y"))
    request = v1.CreateContainerRequest(
        pod_sandbox_id=POD_ID, sandbox_config=claimed, config=container_config()
    )
    pod, container = pod_cache.find(resolve(path("CreateContainer")), request)
    assert pod == POD
    assert container is not None
    assert container.pod_id == POD_ID


def test_unknown_ids() -> None:
    """Unknown and empty ids, ids in a filter, and methods outside the CRI have no pod or
    container."""
    pod_cache = PodCache()
    run_pod(pod_cache)
    create_container(pod_cache)
    nobody = (None, None)
    assert found(pod_cache, "cc") == found(pod_cache, "") == nobody
    listing = v1.ListContainersRequest(filter=v1.ContainerFilter(id=CONTAINER_ID))
    assert pod_cache.find(resolve(path("ListContainers")), listing) == nobody
    assert pod_cache.find(resolve(path("Version")), v1.VersionRequest()) == nobody
    request = v1.StopContainerRequest(container_id=CONTAINER_ID)
    assert pod_cache.find(resolve(b"/other.Service/Stop"), request) == nobody


def test_prefix_of_an_id() -> None:
    """A unique prefix of an id stands for that id, as at the runtime; any other for none."""
    pod_cache = PodCache()
    run_pod(pod_cache, "aabb")
    run_pod(pod_cache, "aabc")
    assert (known := pod_of(pod_cache, "aabc")) is not None
    assert known.id == "aabc"
    for beginning in ("a", "aab"):
        assert pod_of(pod_cache, beginning) is None
    create_container(pod_cache, CONTAINER_ID, pod_id="aabb")
    pod, container = found(pod_cache, "b")
    assert pod is not None
    assert container is not None
    assert (pod.id, container.id) == ("aabb", CONTAINER_ID)
    assert found(pod_cache, CONTAINER_ID + "b") == (None, None)


def test_created_by_a_prefix_of_an_id() -> None:
    """A container that was created with a prefix of a pod's id belongs to that pod."""
    pod_cache = PodCache()
    run_pod(pod_cache)
    create_container(pod_cache, pod_id="aaaa")
    assert found(pod_cache, CONTAINER_ID) == (POD, CONTAINER)


def test_removal() -> None:
    """Removing a pod removes its containers from the cache, and no others."""
    pod_cache = PodCache()
    run_pod(pod_cache)
    run_pod(pod_cache, "cc")
    create_container(pod_cache)
    create_container(pod_cache, "dd")
    create_container(pod_cache, "ee", pod_id="cc")
    update(
        pod_cache,
        "RemoveContainer",
        v1.RemoveContainerRequest(container_id="d"),
        v1.RemoveContainerResponse(),
    )
    assert found(pod_cache, "dd") == (None, None)
    for _ in range(2):  # to remove again is no error at the runtime
        update(
            pod_cache,
            "RemovePodSandbox",
            v1.RemovePodSandboxRequest(pod_sandbox_id=POD_ID),
            v1.RemovePodSandboxResponse(),
        )
    assert pod_of(pod_cache, POD_ID) is None
    assert found(pod_cache, CONTAINER_ID) == (None, None)
    assert found(pod_cache, "ee")[1] is not None


def test_restored() -> None:
    """A restored pod and its containers are cached like created ones."""
    pod_cache = PodCache()
    update(
        pod_cache,
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
    assert found(pod_cache, CONTAINER_ID) == (POD, CONTAINER)
    assert found(pod_cache, "ff") == (None, None)


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
def test_listing(api: Any) -> None:
    """Listed pods and containers are cached like created ones, in either API version."""
    pod_cache = PodCache()
    pod_cache.add_listing(*listings(api))
    assert found(pod_cache, CONTAINER_ID) == (POD, CONTAINER)
    assert found(pod_cache, CONTAINER_ID[:12]) == (POD, CONTAINER)


@pytest.mark.parametrize("size", [1, 100])
def test_listings_for_another_cache(size: int) -> None:
    """Another cache has the same names from the listings of one, without labels, in parts."""
    pod_cache, other = PodCache(), PodCache()
    assert list(pod_cache.listings(size)) == []
    pod_cache.add_listing(*listings())
    run_pod(pod_cache, "cc")
    image = v1.Image(id="sha256:11", repo_tags=["docker.io/library/nginx:1"])
    pod_cache.add_listing(images=v1.ListImagesResponse(images=[image]).SerializeToString())
    parts = list(pod_cache.listings(size))
    assert len(parts) == (2 if size == 1 else 1)
    for part in parts:
        other.add_listing(*part)
    without = {"labels": {}, "annotations": {}}
    assert found(other, CONTAINER_ID) == (replace(POD, **without), replace(CONTAINER, **without))
    assert pod_of(other, "cc") == replace(pod_of(pod_cache, "cc"), **without)
    assert list(other.listings(100)) == list(pod_cache.listings(100))
    assert b"library/nginx:1" in parts[-1][2]


def test_listing_after_a_call() -> None:
    """Items from calls during the listing are kept."""
    pod_cache = PodCache()
    run_pod(pod_cache, "cc")
    pod_cache.add_listing(*listings())
    assert pod_of(pod_cache, "cc") is not None
    assert pod_of(pod_cache, POD_ID) == POD


def test_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit the oldest item is removed; listed items are older than those of calls."""
    monkeypatch.setattr(module, "LIMIT", 3)
    pod_cache = PodCache()
    run_pod(pod_cache, "c1")
    pod_cache.add_listing(*listings())
    run_pod(pod_cache, "c2")
    assert pod_of(pod_cache, POD_ID) is not None
    run_pod(pod_cache, "c3")
    assert pod_of(pod_cache, POD_ID) is None
    run_pod(pod_cache, "c1")  # the same id again is not one more
    run_pod(pod_cache, "c4")
    assert [pod_of(pod_cache, id_) is not None for id_ in ("c1", "c2", "c3", "c4")] == [
        True,
        False,
        True,
        True,
    ]
    pods = [v1.PodSandbox(id=f"d{n}", created_at=9 - n) for n in range(9)]
    pod_cache = PodCache()
    pod_cache.add_listing(v1.ListPodSandboxResponse(items=pods).SerializeToString(), b"")
    assert [pod_of(pod_cache, pod.id) is not None for pod in pods] == [True] * 3 + [False] * 6


def test_values_that_are_not_utf8() -> None:
    """A container of v1alpha2 is cached whatever its environment is."""
    pod_cache = PodCache()
    config = container_config()
    config.envs.add(key="A", value=b"\xff")
    request = v1.CreateContainerRequest(pod_sandbox_id=POD_ID, config=config)
    response = v1.CreateContainerResponse(container_id=CONTAINER_ID)
    pod_cache.update(
        path("CreateContainer", v1alpha2), request.SerializeToString(), response.SerializeToString()
    )
    assert found(pod_cache, CONTAINER_ID)[1] == CONTAINER


IMAGE_ID = "sha256:" + "ab" * 32


def created(pod_cache: PodCache, spec: v1.ImageSpec, trusted: bool = False) -> Container:
    """Return the container of a CreateContainer with an image."""
    request = v1.CreateContainerRequest(config=v1.ContainerConfig(image=spec))
    container = pod_cache.find(resolve(path("CreateContainer")), request, trusted)[1]
    assert container is not None
    return container


def listed_images(*names: str) -> bytes:
    digests = [name for name in names if "@" in name]
    tags = [name for name in names if "@" not in name]
    image = v1.Image(id=IMAGE_ID, repo_tags=tags, repo_digests=digests)
    data: bytes = v1.ListImagesResponse(images=[image]).SerializeToString()
    return data


def test_image_of_a_pull() -> None:
    """An id that a pull returned has the name that was pulled, in either API version."""
    for api in (v1, v1alpha2):
        pod_cache = PodCache()
        request = api.PullImageRequest(image=api.ImageSpec(image="nginx:1"))
        update(pod_cache, "PullImage", request, api.PullImageResponse(image_ref=IMAGE_ID))
        container = created(pod_cache, v1.ImageSpec(image=IMAGE_ID))
        assert (container.image, container.image_id) == ("docker.io/library/nginx:1", IMAGE_ID)


@pytest.mark.parametrize(
    ("spec", "trusted", "name"),
    [
        (v1.ImageSpec(image="nginx:1", user_specified_image="other"), True, "nginx:1"),
        (v1.ImageSpec(image=IMAGE_ID), False, "registry.corp/a/b:2"),
        (v1.ImageSpec(image=IMAGE_ID, user_specified_image="registry.corp/a/b"), False, None),
        (v1.ImageSpec(image=IMAGE_ID, user_specified_image="x/y:1"), False, "registry.corp/a/b:2"),
        (v1.ImageSpec(image=IMAGE_ID, user_specified_image="x/y:1"), True, None),
        (v1.ImageSpec(image="sha256:" + "cd" * 32, user_specified_image="x/y:1"), False, None),
        (v1.ImageSpec(image="sha256:" + "cd" * 32), True, "sha256:" + "cd" * 32),
    ],
)
def test_name_of_an_image(spec: v1.ImageSpec, trusted: bool, name: str | None) -> None:
    """The user's words name an image by its id if the kubelet passes them on, if the image is of
    that repository, or if nothing else is known; otherwise a known name does."""
    pod_cache = PodCache()
    images = listed_images("registry.corp/a/b:2", "registry.corp/a/b@sha256:" + "ef" * 32)
    pod_cache.add_listing(b"", b"", images)
    assert created(pod_cache, spec, trusted).image == (name or spec.user_specified_image)


def test_image_fact() -> None:
    """The image has its parts; for a call with an id, it is that of the container."""
    pod_cache = PodCache()
    run_pod(pod_cache)
    create_container(pod_cache)
    stop = v1.StopContainerRequest(container_id=CONTAINER_ID)
    container = found(pod_cache, CONTAINER_ID)[1]
    assert pod_cache.image(stop, container) == Image(
        "docker.io/library/nginx:1", "docker.io", "library/nginx", "1"
    )
    pull = v1.PullImageRequest(image=v1.ImageSpec(image="a.io/b/c:1@sha256:ab"))
    digest = Image("a.io/b/c:1@sha256:ab", "a.io", "b/c", "1", "sha256:ab")
    assert pod_cache.image(pull, None) == digest
    remove = v1.RemoveImageRequest(image=v1.ImageSpec(image=IMAGE_ID))
    assert pod_cache.image(remove, None) == Image(id=IMAGE_ID)
    assert pod_cache.image(v1.VersionRequest(), None) is None
    for request in (v1.CreateContainerRequest(), v1.PullImageRequest()):
        assert pod_cache.image(request, None) == Image()


def test_images_listed_after_containers() -> None:
    """A container that is listed with an id has the name of its image once images are listed."""
    pod_cache = PodCache()
    listed = v1.Container(id=CONTAINER_ID, image=v1.ImageSpec(image=IMAGE_ID))
    containers = v1.ListContainersResponse(containers=[listed]).SerializeToString()
    pod_cache.add_listing(containers=containers)
    before, after = IMAGE_ID, "registry.corp/a/b:2"
    for name in (before, after):
        container = found(pod_cache, CONTAINER_ID)[1]
        assert container is not None
        assert (container.image, container.image_id) == (name, IMAGE_ID)
        pod_cache.add_listing(images=listed_images(after))
    image = pod_cache.image(v1.StopContainerRequest(container_id=CONTAINER_ID), container)
    assert image == Image(after, "registry.corp", "a/b", "2", "", IMAGE_ID)


@pytest.mark.parametrize(
    ("short_names", "registry", "repository"),
    [("docker.io", "docker.io", "library/nginx"), ("", "", "nginx"), (None, None, "nginx")],
)
def test_short_names(short_names: str | None, registry: str | None, repository: str) -> None:
    """A short name, pulled before it is known how the runtime reads it, is read so later."""
    pod_cache = PodCache(None)
    pull = v1.PullImageRequest(image=v1.ImageSpec(image="nginx:1"))
    update(pod_cache, "PullImage", pull, v1.PullImageResponse(image_ref=IMAGE_ID))
    create = v1.CreateContainerRequest(
        config=v1.ContainerConfig(image=v1.ImageSpec(image=IMAGE_ID))
    )
    pod_cache.short_names = short_names
    container = pod_cache.find(resolve(path("CreateContainer")), create)[1]
    for request in (pull, create):
        image = pod_cache.image(request, container)
        assert image is not None
        assert (image.registry, image.repository, image.tag) == (registry, repository, "1")


def test_names_of_images_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limits, the oldest image and the oldest names are removed."""
    monkeypatch.setattr(module, "LIMIT", 2)
    monkeypatch.setattr(module, "_NAMES", 2)
    pod_cache = PodCache()
    for id_, name in (("a1", "v"), ("b1", "w"), ("b1", "x"), ("b1", "y"), ("c1", "z")):
        request = v1.PullImageRequest(image=v1.ImageSpec(image=name))
        update(pod_cache, "PullImage", request, v1.PullImageResponse(image_ref=id_))
    names = [f"docker.io/library/{name}:latest" for name in ("y", "x", "z")]
    assert [*pod_cache._image_names.values()] == [tuple(names[:2]), (names[2],)]


def test_undecodable() -> None:
    """A message that cannot be decoded is an EvaluationError and leaves the cache unchanged."""
    pod_cache = PodCache()
    with pytest.raises(EvaluationError) as raised:
        pod_cache.update(path("RunPodSandbox"), b"\xff", b"")
    assert raised.value.reason == "decode"
    with pytest.raises(EvaluationError):
        pod_cache.add_listing(listings()[0], b"\xff")
    assert pod_of(pod_cache, POD_ID) is None


@given(
    st.lists(st.tuples(st.booleans(), st.text("ab", min_size=1, max_size=4)), max_size=40),
    st.text("ab", max_size=4),
)
def test_like_a_plain_search(steps: list[tuple[bool, str]], asked: str) -> None:
    """After any sequence of additions and removals, an id is found as by a linear search."""
    pod_cache = PodCache()
    ids: set[str] = set()
    for made, id_ in steps:
        if made:
            run_pod(pod_cache, id_)
            ids.add(id_)
        else:
            update(
                pod_cache,
                "RemovePodSandbox",
                v1.RemovePodSandboxRequest(pod_sandbox_id=id_),
                v1.RemovePodSandboxResponse(),
            )
            ids.discard(_plain(ids, id_) or id_)
    known = pod_of(pod_cache, asked)
    assert (known.id if known else None) == _plain(ids, asked)


def _plain(ids: set[str], asked: str) -> str | None:
    if asked in ids or not asked:
        return asked or None
    begin = [id_ for id_ in ids if id_.startswith(asked)]
    return begin[0] if len(begin) == 1 else None


def test_container_of_an_uncertain_pod() -> None:
    """A container whose pod is known only by a prefix has no certain pod: a later pod may match."""
    pod_cache = PodCache()
    listed = v1.ListContainersResponse(containers=[v1.Container(id="c", pod_sandbox_id="po")])
    pods = v1.ListPodSandboxResponse(items=[v1.PodSandbox(id="pod")])
    pod_cache.add_listing(pods.SerializeToString(), listed.SerializeToString())
    assert pod_cache.container_only("c") == (None, None)
    assert pod_cache.container_only("pod") == (None, None)
    assert pod_cache.pod("") is None
    found = pod_cache.pod("po")
    assert found is not None
    assert found.id == "pod"


def test_lookup_beside_a_change() -> None:
    """An item that is removed during a lookup on another thread is not found."""

    class Id(str):
        def startswith(self, *arguments: Any) -> bool:
            table.remove(self)
            return super().startswith(*arguments)

    table = _Table[Pod]()
    table.add(Pod(Id("abc"), "shop", "web", "u"))
    assert table.find("ab") is None
    assert len(table) == 0


class CountedId(str):
    """An id that counts how often ids are compared for their order."""

    __slots__ = ()
    compared = 0

    def __lt__(self, other: str) -> bool:
        CountedId.compared += 1
        return str.__lt__(self, other)


@pytest.mark.parametrize("present", [500, 5000])
def test_cost_of_a_small_listing(present: int) -> None:
    """A part of a listing is added at a cost that does not grow with what is there already."""
    table = _Table[Pod]()
    table.add_older(replace(POD, id=CountedId(f"{number:04x}")) for number in range(present))
    CountedId.compared = 0
    table.add_older(replace(POD, id=CountedId(f"{number:04x}a")) for number in range(32))
    assert 0 < CountedId.compared <= 32 * 14  # bisections of up to 2^14 ids
    assert len(table) == present + 32
