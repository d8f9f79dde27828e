"""Names of images: their parts, and what containers' images are called.

A kubelet pulls an image by its name and creates containers by its id; the name that the user wrote
is in ``user_specified_image``. The runtime goes by ``image`` alone, so a client could write any
name beside an id. The name counts if nothing else is known of the id, if the image is known to be
of that repository, and if the client is the kubelet.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

from criproxy.rules.facts import Image

HUB: Final = "docker.io"
OLD_HUB: Final = "index.docker.io"
_ID: Final = re.compile(r"(?:sha256:|sha512:)?[0-9a-f]+")


def is_registry(part: str) -> bool:
    """Return whether the part before the first slash is a registry, not a user of Docker Hub."""
    return part == "localhost" or "." in part or ":" in part or part != part.lower()


def normalized(name: str) -> str | None:
    """Return a name with its registry and tag; None for an id, and for an image without a name."""
    if not name or "<" in name or _ID.fullmatch(name):  # "<none>:<none>": an image without a name
        return None
    if "@" not in name and ":" not in name.rpartition("/")[2]:
        name += ":latest"
    registry, slash, rest = name.partition("/")
    if not slash or not is_registry(registry):
        registry, rest = HUB, name
    if registry == OLD_HUB:
        registry = HUB
    if registry == HUB and "/" not in rest:
        rest = "library/" + rest
    return f"{registry}/{rest}"


def id_of(name: str) -> str:
    """Return a name that is an id; empty for any other."""
    return "" if normalized(name) else name


def image_of(name: str, id_: str = "") -> Image:
    """Return the image of a name, which may be an id, and of an id, if that is known."""
    full = normalized(name)
    if full is None:
        return Image(id=id_ or name)
    registry, _, rest = full.partition("/")
    rest, _, digest = rest.partition("@")
    repository, colon, tag = rest.rpartition(":")
    if not colon:
        repository, tag = rest, ""
    return Image(full, registry, repository, tag, digest, id_)


def image_name(spec: Any, known: Sequence[str], trusted: bool) -> str:
    """Return the name of an ImageSpec's image as a person wrote it, or its id.

    ``known`` are names that the image of an id is known to have, ``trusted`` is whether the client
    is trusted to have put the user's own words into ``user_specified_image``.
    """
    name: str = spec.image
    claimed: str = getattr(spec, "user_specified_image", "")
    if normalized(name) is not None or not (claimed or known):
        return name
    if claimed and (trusted or not known or any(_same_repository(claimed, each) for each in known)):
        return claimed
    return known[0] if known else name


def _same_repository(one: str, other: str) -> bool:
    first, second = image_of(one), image_of(other)
    return (first.registry, first.repository) == (second.registry, second.repository)
