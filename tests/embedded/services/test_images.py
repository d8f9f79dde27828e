"""Image names and the image service."""

import grpc
import pytest

from criproxy.client import CriClient
from criproxy.embedded.services.images import PRELOADED, normalize

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27"),
        ("team/app", "docker.io/team/app:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("host.test:5000/a/b:v1", "host.test:5000/a/b:v1"),
        (f"host.test/a@{DIGEST}", f"host.test/a@{DIGEST}"),
        (f"host.test/a:v1@{DIGEST}", f"host.test/a@{DIGEST}"),
    ],
)
def test_names_are_completed(name: str, full: str) -> None:
    """A name without host, directory or tag means the usual ones; a digest makes a tag moot."""
    assert normalize(name) == full


@pytest.mark.parametrize("name", ["", "UPPER", "a b", "::", "a:", "a@sha256:12", "/a", "a//b"])
def test_what_is_no_name_is_refused(name: str) -> None:
    """A malformed name is a ValueError."""
    with pytest.raises(ValueError, match="invalid reference format"):
        normalize(name)


def test_pulled_image_is_found_by_every_name(client: CriClient) -> None:
    """An image answers to its name, its digest, its id and a prefix of its id."""
    id_ = client.PullImage(image={"image": "host.test/app:1"}).image_ref
    image = client.ImageStatus(image={"image": "host.test/app:1"}).image
    assert (image.id, list(image.repo_tags)) == (id_, ["host.test/app:1"])
    for name in (image.repo_digests[0], id_, id_.removeprefix("sha256:")[:16]):
        assert client.ImageStatus(image={"image": name}).image.id == id_


def test_lists_know_pulled_and_removed_images(client: CriClient) -> None:
    """ListImages has the preloaded images and what was pulled, until it is removed."""
    spec = {"image": "host.test/app:1"}
    assert {tag for i in client.ListImages().images for tag in i.repo_tags} == set(PRELOADED)
    client.PullImage(image=spec)
    assert len(client.ListImages().images) == len(PRELOADED) + 1
    (found,) = client.ListImages(filter={"image": spec}).images
    assert list(found.repo_tags) == ["host.test/app:1"]
    client.RemoveImage(image=spec)
    assert len(client.ListImages().images) == len(PRELOADED)
    assert not client.ListImages(filter={"image": spec}).images


def test_unresolvable_host_cannot_be_pulled(client: CriClient) -> None:
    """A name below .invalid fails as on a node that cannot resolve it."""
    with pytest.raises(grpc.RpcError) as raised:
        client.PullImage(image={"image": "nope.invalid/app:1"})
    assert raised.value.code() is grpc.StatusCode.UNKNOWN
    assert "no such host" in raised.value.details()
