"""Names of images: which registry they are in, and which are ids."""

import pytest

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.rules.errors import EvaluationError
from criproxy.rules.facts import Image
from criproxy.rules.image_names import (
    AS_WRITTEN,
    HUB,
    checked,
    image_name,
    image_of,
    normalized,
    short_names_of,
)

HEX = "ab" * 32
DIGEST = f"sha256:{HEX}"

SHORT = [
    ("nginx", "library/nginx", "nginx", "latest", ""),
    ("nginx:1.25", "library/nginx", "nginx", "1.25", ""),
    (f"nginx@{DIGEST}", "library/nginx", "nginx", "", DIGEST),
    (f"nginx:1@{DIGEST}", "library/nginx", "nginx", "1", DIGEST),
    ("bitnami/redis:7", "bitnami/redis", "bitnami/redis", "7", ""),
    ("a/b/c", "a/b/c", "a/b/c", "latest", ""),
    ("localhost:5000", "library/localhost", "localhost", "5000", ""),
    ("docker.io", "library/docker.io", "docker.io", "latest", ""),
    ("local_host/x:1", "local_host/x", "local_host/x", "1", ""),
]
"""Short names, their repositories in docker.io and as they are written, tag and digest."""

FULL = [
    ("docker.io/nginx", "docker.io", "library/nginx", "latest"),
    ("index.docker.io/nginx:1", "docker.io", "library/nginx", "1"),
    ("docker.io/a/b:1", "docker.io", "a/b", "1"),
    ("localhost/x", "localhost", "x", "latest"),
    ("localhost:5000/x:2", "localhost:5000", "x", "2"),
    ("host:5000/a/x", "host:5000", "a/x", "latest"),
    ("[::1]:5000/x:1", "[::1]:5000", "x", "1"),
    ("127.0.0.1/x", "127.0.0.1", "x", "latest"),
    ("quay.io/x:1", "quay.io", "x", "1"),
    ("Host/x:1", "Host", "x", "1"),
]
"""Names with a registry."""


@pytest.mark.parametrize(("name", "in_hub", "as_written", "tag", "digest"), SHORT)
def test_short_names(name: str, in_hub: str, as_written: str, tag: str, digest: str) -> None:
    """A short name is one of docker.io, or has no registry, or its registry is not known yet."""
    rest = (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    full = f"docker.io/{in_hub}{rest}"
    assert image_of(name, HUB) == Image(full, "docker.io", in_hub, tag, digest)
    assert normalized(name, HUB) == full
    written = f"{as_written}{rest}"
    assert image_of(name, AS_WRITTEN) == Image(written, "", as_written, tag, digest)
    assert normalized(name, AS_WRITTEN) == written
    unknown = image_of(name, None)
    assert unknown == Image(written, None, as_written, tag, digest)
    for function in (lambda: normalized(name, None), lambda: checked(unknown)):
        with pytest.raises(EvaluationError) as raised:
            function()
        assert raised.value.reason == "unknown_runtime"


@pytest.mark.parametrize("short_names", [HUB, AS_WRITTEN, None])
@pytest.mark.parametrize(("name", "registry", "repository", "tag"), FULL)
def test_full_names(
    name: str, registry: str, repository: str, tag: str, short_names: str | None
) -> None:
    """A name with a registry means the same to every runtime."""
    full = f"{registry}/{repository}:{tag}"
    image = Image(full, registry, repository, tag)
    assert checked(image_of(name, short_names)) == image
    assert normalized(name, short_names) == full


@pytest.mark.parametrize("short_names", [HUB, AS_WRITTEN, None])
@pytest.mark.parametrize("name", ["", DIGEST, HEX, HEX[:12], "<none>:<none>"])
def test_ids(name: str, short_names: str | None) -> None:
    """An id has no registry to know."""
    assert normalized(name, short_names) is None
    assert checked(image_of(name, short_names)) == Image(id=name)
    assert checked(None) is None


@pytest.mark.parametrize(
    ("runtime_name", "short_names"),
    [
        ("containerd", HUB),
        ("docker", HUB),
        ("criproxy-embedded", HUB),
        ("cri-o", AS_WRITTEN),
        ("new", AS_WRITTEN),
        ("", AS_WRITTEN),
    ],
)
def test_runtimes(runtime_name: str, short_names: str) -> None:
    """Only runtimes that are known to do so read a short name as one of docker.io."""
    assert short_names_of(runtime_name) == short_names


@pytest.mark.parametrize(("short_names", "believed"), [(HUB, True), (AS_WRITTEN, False)])
def test_claimed_short_name(short_names: str, believed: bool) -> None:
    """A client's short name for an id counts where it is the repository that the image has."""
    spec = v1.ImageSpec(image=DIGEST, user_specified_image="nginx:1")
    known = ("docker.io/library/nginx:2",)
    found = image_name(spec, known, False, short_names)
    assert found == ("nginx:1" if believed else known[0])
