"""The image methods, and the resolution of image names.

Nothing is fetched: every well-formed name can be pulled, and the image depends on the name alone.
A name whose host ends in ``.invalid`` (RFC 2606) cannot be resolved, as on a real node.
"""

import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Final

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.embedded.services.chunks import chunks
from criproxy.embedded.state import views
from criproxy.embedded.state.errors import unknown
from criproxy.embedded.state.objects import Image
from criproxy.embedded.state.store import Store, with_prefix

PAUSE_IMAGE: Final = "registry.k8s.io/pause:3.10"
PRELOADED: Final = (
    PAUSE_IMAGE,
    "docker.io/library/busybox:1.36",
    "docker.io/library/nginx:1.27",
)
"""The images at the start."""

IMAGE_DIRECTORY: Final = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs"

_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE: Final = re.compile(
    rf"(?P<name>(?:[A-Za-z0-9.-]+(?::\d+)?/)?{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
"""Grammar of an image name (a subset of the distribution project's reference grammar)."""


def normalize(reference: str) -> str:
    """Return an image name in full: ``nginx`` is ``docker.io/library/nginx:latest``.

    Raises ValueError for a malformed name.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise ValueError("invalid reference format")
    name = _full_name(match["name"])
    if match["digest"]:
        return f"{name}@{match['digest']}"
    return f"{name}:{match['tag'] or 'latest'}"


def resolve(images: Mapping[str, Image], reference: str) -> Image | None:
    """Return the image with a name, a digest, an id or a prefix of an id; None if there is none."""
    if not reference:
        return None
    if reference in images:
        return images[reference]
    try:
        name = normalize(reference)
    except ValueError:
        return None
    for image in images.values():
        if name in image.repo_tags or name in image.repo_digests:
            return image
    found = with_prefix(images.items(), f"sha256:{reference}")
    return found[0] if len(found) == 1 else None


class ImageService:
    """The methods of the image service."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def pull_image(self, request: v1.PullImageRequest) -> v1.PullImageResponse:
        """Add the named image and return its id."""
        reference = request.image.image
        try:
            name = normalize(reference)
        except ValueError as error:
            raise unknown(f'failed to parse image reference "{reference}": {error}') from error
        host = name.split("/", 1)[0]
        if host.partition(":")[0].endswith(".invalid"):
            raise unknown(
                f'failed to pull and unpack image "{name}": failed to resolve reference "{name}": '
                f"failed to do request: lookup {host}: no such host"
            )
        return v1.PullImageResponse(image_ref=add_image(self._store, name).id)

    def image_status(self, request: v1.ImageStatusRequest) -> v1.ImageStatusResponse:
        """Return an image's status; empty for an unknown image."""
        image = resolve(self._store.images, request.image.image)
        if image is None:
            return v1.ImageStatusResponse()
        info = {"info": json.dumps({"chainID": image.id})} if request.verbose else {}
        return v1.ImageStatusResponse(image=views.image(image), info=info)

    def list_images(self, request: v1.ListImagesRequest) -> v1.ListImagesResponse:
        """Return the images, or the one that the filter names."""
        return v1.ListImagesResponse(images=self._matching(request.filter))

    async def stream_images(
        self, request: v1.StreamImagesRequest
    ) -> AsyncIterator[v1.StreamImagesResponse]:
        """Yield the images, some in each message."""
        for part in chunks(self._matching(request.filter)):
            yield v1.StreamImagesResponse(images=part)

    def remove_image(self, request: v1.RemoveImageRequest) -> v1.RemoveImageResponse:
        """Remove an image with all its tags. Succeeds for an unknown one."""
        image = resolve(self._store.images, request.image.image)
        if image is not None:
            del self._store.images[image.id]
            self._store.touch()
        return v1.RemoveImageResponse()

    def image_fs_info(self, _: v1.ImageFsInfoRequest) -> v1.ImageFsInfoResponse:
        """Return the usage of the one filesystem that holds everything."""
        images = self._store.images.values()
        usage = v1.FilesystemUsage(
            timestamp=time.time_ns(),
            fs_id=v1.FilesystemIdentifier(mountpoint=IMAGE_DIRECTORY),
            used_bytes=v1.UInt64Value(value=sum(image.size for image in images)),
            inodes_used=v1.UInt64Value(value=sum(image.size >> 14 for image in images)),
        )
        return v1.ImageFsInfoResponse(image_filesystems=[usage], container_filesystems=[usage])

    def _matching(self, wanted: v1.ImageFilter) -> Iterator[v1.Image]:
        if not wanted.image.image:
            yield from map(views.image, self._store.images.values())
        elif image := resolve(self._store.images, wanted.image.image):
            yield views.image(image)


def add_image(store: Store, name: str) -> Image:
    """Return the image of a normalized name, and add it to the store if it is missing."""
    repository, _, digest = name.partition("@")
    tag = "" if digest else repository
    if not digest:
        repository = repository.rpartition(":")[0]
        digest = f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"
    id_ = f"sha256:{hashlib.sha256(digest.encode()).hexdigest()}"
    image = store.images.get(id_)
    if image is None:
        size = 1_000_000 + int(id_[-6:], 16) * 8  # 1 to 135 MB
        image = Image(id_, digest, size, [], [], pinned=name == PAUSE_IMAGE)
        store.images[id_] = image
    for names, new in ((image.repo_tags, tag), (image.repo_digests, f"{repository}@{digest}")):
        if new and new not in names:
            names.append(new)
    store.touch()
    return image


def _full_name(name: str) -> str:
    first, slash, _ = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return name
    return f"docker.io/{name}" if slash else f"docker.io/library/{name}"
