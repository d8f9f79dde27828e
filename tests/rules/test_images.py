"""Renaming of images in requests, and back in responses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.cri.pb import runtime_v1alpha2_pb2 as v1alpha2
from criproxy.rules.errors import EvaluationError
from criproxy.rules.image_names import AS_WRITTEN
from criproxy.rules.images import ImageMap, PairError

HUB = ImageMap([("docker.io/*", "mirror.local/*")])
ID = "sha256:" + "ab" * 32
DIGEST = "@sha256:" + "cd" * 32


# Names


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("nginx", "mirror.local/library/nginx:latest"),
        ("nginx:1.25", "mirror.local/library/nginx:1.25"),
        ("nginx" + DIGEST, "mirror.local/library/nginx" + DIGEST),
        ("nginx:1.25" + DIGEST, "mirror.local/library/nginx:1.25" + DIGEST),
        ("bitnami/redis:7", "mirror.local/bitnami/redis:7"),
        ("docker.io/nginx:1.25", "mirror.local/library/nginx:1.25"),
        ("index.docker.io/library/nginx:1.25", "mirror.local/library/nginx:1.25"),
        ("docker.io/library/nginx:1.25", "mirror.local/library/nginx:1.25"),
        ("cafe:1", "mirror.local/library/cafe:1"),
    ],
)
def test_forward(name: str, sent: str) -> None:
    """A name is normalized as by a runtime, then renamed."""
    assert HUB.forward(name) == sent


@pytest.mark.parametrize(
    "name",
    [
        "",
        ID,
        ID[7:],
        ID[:20],
        "cafe",
        "<none>:<none>",
        "registry.k8s.io/pause:3.9",
        "localhost/a:1",
    ],
)
def test_unchanged_names(name: str) -> None:
    """Ids, shortened ids, and names that no pair matches are unchanged."""
    assert HUB.forward(name) == HUB.backward(name) == name


@pytest.mark.parametrize("name", ["nginx:1", "nginx", "a/b:1"])
def test_short_names(name: str) -> None:
    """Where short names are not those of docker.io, its pairs do not match them, and ``*`` does."""
    assert HUB.forward(name, AS_WRITTEN) == HUB.backward(name, AS_WRITTEN) == name
    every = ImageMap([("*", "mirror.local/*")])
    full = name if ":" in name else f"{name}:latest"
    assert every.forward(name, AS_WRITTEN) == f"mirror.local/{full}"
    assert every.backward(f"mirror.local/{full}", AS_WRITTEN) == full
    assert HUB.forward("docker.io/nginx:1", AS_WRITTEN) == "mirror.local/library/nginx:1"
    assert HUB.backward("mirror.local/library/nginx:1", None) == "docker.io/library/nginx:1"
    with pytest.raises(EvaluationError):
        HUB.forward(name, None)
    assert HUB.backward(name, None) == name


def test_first_pair() -> None:
    """The first pair that matches applies, in both directions."""
    images = ImageMap(
        [
            ("docker.io/library/*", "mirror.local/official/*"),
            ("docker.io/*", "mirror.local/hub/*"),
        ]
    )
    assert images.forward("nginx:1") == "mirror.local/official/nginx:1"
    assert images.forward("a/b:1") == "mirror.local/hub/a/b:1"
    assert images.backward("mirror.local/official/nginx:1") == "docker.io/library/nginx:1"
    assert images.backward("mirror.local/hub/a/b:1") == "docker.io/a/b:1"


def test_star_anywhere() -> None:
    """The star stands for the same text in both patterns, wherever it is."""
    images = ImageMap([("docker.io/library/*-slim", "mirror.local/slim/*"), ("*", "all.local/*")])
    assert images.forward("python:3.11-slim") == "mirror.local/slim/python:3.11"
    assert images.backward("mirror.local/slim/python:3.11") == "docker.io/library/python:3.11-slim"
    assert images.forward("nginx:1") == "all.local/docker.io/library/nginx:1"
    assert images.backward("all.local/docker.io/library/nginx:1") == "docker.io/library/nginx:1"


def test_backward_is_the_inverse_of_forward() -> None:
    """A name that no client's name would be renamed to is not renamed back."""
    images = ImageMap(
        [("docker.io/library/*", "mirror.local/official/*"), ("docker.io/*", "mirror.local/hub/*")]
    )
    assert images.backward("mirror.local/hub/library/nginx:1") == "mirror.local/hub/library/nginx:1"
    assert HUB.backward("mirror.local/nginx:1") == "mirror.local/nginx:1"


@pytest.mark.parametrize(
    ("pairs", "index", "key", "says"),
    [
        ([("docker.io", "mirror.local/*")], 0, "from", "needs one *"),
        ([("docker.io/*", "mirror.local/*/*")], 0, "to", "needs one *"),
        ([("nginx:*", "mirror.local/nginx:*")], 0, "from", "begin with a registry"),
        ([("docker.io/*", "*")], 0, "to", "begin with a registry"),
        ([("docker.io/nginx:*", "a.local/*")], 0, "from", "docker.io/library/nginx:*"),
        ([("a.io/*", "m.io/*"), ("b.io/*", "m.io/*")], 1, "to", "could not be told from m.io/*"),
        ([("a.io/*", "m.io/*"), ("b.io/*", "m.io/b/*")], 1, "to", "narrower of the two first"),
        ([("a.io/*", "m.io/*"), ("a.io/x/*", "n.io/*")], 1, "from", "never acts: a.io/*"),
    ],
)
def test_invalid_pairs(pairs: list[tuple[str, str]], index: int, key: str, says: str) -> None:
    """Patterns that cannot be reversed are an error with the index and the key."""
    with pytest.raises(PairError) as raised:
        ImageMap(pairs)
    assert (raised.value.index, raised.value.key) == (index, key)
    assert says in str(raised.value)


NAMES = st.from_regex(
    r"((docker\.io|mirror\.local|a\.io|localhost:5000)/)?([a-c]{1,2}/){0,2}[g-i]{1,3}"
    r"(:[a-d0-9]{1,3})?(@sha256:[a-f0-9]{4})?",
    fullmatch=True,
)
MAPS = st.sampled_from(
    [
        [("docker.io/*", "mirror.local/*")],
        [("*", "mirror.local/*")],
        [("a.io/*", "mirror.local/a/*"), ("docker.io/*", "mirror.local/*")],
        [("docker.io/*", "a.io/*"), ("a.io/*", "docker.io/*")],
        [("docker.io/a/*", "mirror.local/*-a"), ("docker.io/*", "mirror.local/x*")],
    ]
)


@given(pairs=MAPS, name=NAMES)
def test_round_trips(pairs: list[tuple[str, str]], name: str) -> None:
    """A name that is renamed back is renamed forward to the original, and back again to itself."""
    images = ImageMap(pairs)
    known = images.backward(name)
    if known != name:
        sent = images.forward(known)
        assert images.backward(sent) == known
    sent = images.forward(name)
    if sent != name:
        assert images.forward(images.backward(sent)) == sent


# Messages


def test_methods() -> None:
    """Exactly these methods have names in their messages; a method of a new CRI has to be
    examined."""
    assert ImageMap.requests == {
        "CreateContainer",
        "ImageStatus",
        "ListImages",
        "PullImage",
        "RemoveImage",
        "RestorePod",
        "StreamImages",
    }
    assert ImageMap.responses == {
        "ContainerStatus",
        "GetContainerEvents",
        "ImageStatus",
        "ListContainers",
        "ListImages",
        "PodSandboxStatus",
        "PullImage",
        "StreamContainers",
        "StreamImages",
    }


def test_requests() -> None:
    """Requests that name an image are renamed, also in filters, in both API versions."""
    for api in (v1, v1alpha2):
        spec = api.ImageSpec(image="nginx:1")
        sent = "mirror.local/library/nginx:1"
        for request in (
            api.PullImageRequest(image=spec),
            api.ImageStatusRequest(image=spec),
            api.RemoveImageRequest(image=spec),
        ):
            assert HUB.request(request)
            assert request.image.image == sent
        listing = api.ListImagesRequest(filter=api.ImageFilter(image=spec))
        assert HUB.request(listing)
        assert listing.filter.image.image == sent


def test_create_container() -> None:
    """A container's image and its image volumes are renamed; the user's own words are not."""
    volume = v1.Mount(container_path="/models", image=v1.ImageSpec(image="a/models:1"))
    request = v1.CreateContainerRequest(
        config=v1.ContainerConfig(
            image=v1.ImageSpec(image="docker.io/library/nginx:1", user_specified_image="nginx:1"),
            mounts=[v1.Mount(host_path="/tmp"), volume],
        )
    )
    assert HUB.request(request)
    assert request.config.image.image == "mirror.local/library/nginx:1"
    assert request.config.image.user_specified_image == "nginx:1"
    assert [mount.image.image for mount in request.config.mounts] == ["", "mirror.local/a/models:1"]
    assert not request.config.mounts[0].HasField("image")


def test_create_container_by_id() -> None:
    """A request with an image id is not changed."""
    request = v1.CreateContainerRequest(
        config=v1.ContainerConfig(image=v1.ImageSpec(image=ID, user_specified_image="nginx:1"))
    )
    before = request.SerializeToString()
    assert not HUB.request(request)
    assert request.SerializeToString() == before


def image(*tags: str, digests: tuple[str, ...] = ()) -> v1.Image:
    return v1.Image(id=ID, repo_tags=tags, repo_digests=digests)


def test_images_are_renamed_back() -> None:
    """Listings and statuses of images contain the client's names."""
    found = image("mirror.local/library/nginx:1", digests=("mirror.local/library/nginx" + DIGEST,))
    found.spec.image = "mirror.local/library/nginx:1"
    found.spec.user_specified_image = "mirror.local/library/nginx:1"
    for response in (
        v1.ListImagesResponse(images=[image("k8s.gcr.io/pause:3.9"), found]),
        v1.StreamImagesResponse(images=[image("k8s.gcr.io/pause:3.9"), found]),
    ):
        assert HUB.response(response)
        assert list(response.images[0].repo_tags) == ["k8s.gcr.io/pause:3.9"]
        _is_back(response.images[1])
    status = v1.ImageStatusResponse(image=found, info={"image": "mirror.local/library/nginx:1"})
    assert HUB.response(status)
    _is_back(status.image)
    assert status.info["image"] == "mirror.local/library/nginx:1"


def _is_back(found: v1.Image) -> None:
    assert found.id == ID
    assert list(found.repo_tags) == ["docker.io/library/nginx:1"]
    assert list(found.repo_digests) == ["docker.io/library/nginx" + DIGEST]
    assert found.spec.image == "docker.io/library/nginx:1"
    assert found.spec.user_specified_image == "mirror.local/library/nginx:1"


def test_under_both_names() -> None:
    """An image that the runtime has under both names is listed under one, in its order."""
    response = v1.ListImagesResponse(
        images=[image("docker.io/library/nginx:1", "a.io/b:1", "mirror.local/library/nginx:1")]
    )
    assert HUB.response(response)
    assert list(response.images[0].repo_tags) == ["docker.io/library/nginx:1", "a.io/b:1"]


def test_containers_are_renamed_back() -> None:
    """Containers contain the client's name of their image; ids, which are compared, are
    unchanged."""
    name, known = "mirror.local/library/nginx:1", "docker.io/library/nginx:1"
    listed = v1.Container(image=v1.ImageSpec(image=name), image_ref=name, image_id=name)
    status = v1.ContainerStatus(image=v1.ImageSpec(image=name), image_ref=name, image_id=name)
    status.mounts.add(
        image=v1.ImageSpec(image=name, image_ref="mirror.local/library/nginx" + DIGEST)
    )
    one = v1.ContainerStatusResponse(status=status)
    many = v1.ListContainersResponse(containers=[listed])
    stream = v1.StreamContainersResponse(containers=[listed])
    pod = v1.PodSandboxStatusResponse(containers_statuses=[status])
    event = v1.ContainerEventResponse(containers_statuses=[status])
    for response in (one, many, stream, pod, event):
        assert HUB.response(response)
    for found in (
        one.status,
        many.containers[0],
        stream.containers[0],
        pod.containers_statuses[0],
        event.containers_statuses[0],
    ):
        assert (found.image.image, found.image_ref, found.image_id) == (known, known, name)
    assert one.status.mounts[0].image.image == known
    assert one.status.mounts[0].image.image_ref == "docker.io/library/nginx" + DIGEST


def test_a_pull_is_renamed_back() -> None:
    """The response to a pull contains a name that CreateContainer accepts, or an id."""
    by_name = v1.PullImageResponse(image_ref="mirror.local/library/nginx" + DIGEST)
    assert HUB.response(by_name)
    assert by_name.image_ref == "docker.io/library/nginx" + DIGEST
    assert not HUB.response(v1.PullImageResponse(image_ref=ID))


def test_unknown_fields() -> None:
    """Unknown fields of a renamed message are preserved."""
    future = b"\xaa\x3e\x03new"  # field 1000-something, length-delimited
    request = v1.PullImageRequest.FromString(
        v1.PullImageRequest(image=v1.ImageSpec(image="nginx:1")).SerializeToString() + future
    )
    assert HUB.request(request)
    assert request.SerializeToString().endswith(future)


def test_nothing_to_rename() -> None:
    """A message without names is reported as unchanged."""
    assert not HUB.request(v1.VersionRequest())
    assert not HUB.request(v1.PullImageRequest())
    assert not HUB.response(v1.ImageStatusResponse())
