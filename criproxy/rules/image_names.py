"""Names of images: their parts, and what containers' images are called.

A kubelet pulls an image by its name and creates containers by its id; the name that the user wrote
is in ``user_specified_image``. The runtime goes by ``image`` alone, so a client could write any
name beside an id. The name counts if nothing else is known of the id, if the image is known to be
of that repository, and if the client is the kubelet.

A short name has no registry. Which image it stands for is the runtime's to say: containerd and
Docker read it as a name of docker.io (the ``reference`` package of the distribution project),
CRI-O as its registries.conf says. The functions here are told by ``short_names``: HUB, or
AS_WRITTEN, which gives short names an empty registry, or None where that is not known yet.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

from criproxy.rules.errors import EvaluationError
from criproxy.rules.facts import Image

HUB: Final = "docker.io"
OLD_HUB: Final = "index.docker.io"
AS_WRITTEN: Final = ""
"""Short names have no registry."""

_READ_AS_DOCKER: Final = frozenset({"containerd", "docker", "criproxy-embedded"})
"""The ``runtime_name`` of runtimes for which a short name is one of docker.io."""

_ID: Final = re.compile(r"(?:sha256:|sha512:)?[0-9a-f]+")


def short_names_of(runtime_name: str) -> str:
    """Return how a runtime with this name, as in its response to Version, reads short names."""
    return HUB if runtime_name in _READ_AS_DOCKER else AS_WRITTEN


def is_registry(part: str) -> bool:
    """Return whether the part before the first slash is a registry, not a user of Docker Hub."""
    return part == "localhost" or "." in part or ":" in part or part != part.lower()


def is_name(name: str) -> bool:
    """Return whether this is a name, not an id, and not what stands for an image without a name."""
    return bool(name) and "<" not in name and not _ID.fullmatch(name)  # "<none>:<none>"


def normalized(name: str, short_names: str | None) -> str | None:
    """Return a name with its registry and tag; None for an id, and for an image without a name.

    Raises EvaluationError for a short name where ``short_names`` is None.
    """
    if not is_name(name):
        return None
    registry, rest = _split(name, short_names)
    if registry is None:
        raise _unknown(name)
    return f"{registry}/{rest}" if registry else rest


def checked(image: Image | None) -> Image | None:
    """Return an image. Raises EvaluationError if it has a short name whose registry is not known
    yet."""
    if image is not None and image.registry is None:
        raise _unknown(image.name)
    return image


def id_of(name: str) -> str:
    """Return a name that is an id; empty for any other."""
    return "" if is_name(name) else name


def image_of(name: str, short_names: str | None, id_: str = "") -> Image:
    """Return the image of a name, which may be an id, and of an id, if that is known."""
    if not is_name(name):
        return Image(id=id_ or name)
    registry, rest = _split(name, short_names)
    full = f"{registry}/{rest}" if registry else rest
    rest, _, digest = rest.partition("@")
    repository, colon, tag = rest.rpartition(":")
    if not colon:
        repository, tag = rest, ""
    return Image(full, registry, repository, tag, digest, id_)


def image_name(spec: Any, known: Sequence[str], trusted: bool, short_names: str | None) -> str:
    """Return the name of an ImageSpec's image as a person wrote it, or its id.

    ``known`` are names that the image of an id is known to have, ``trusted`` is whether the client
    is trusted to have put the user's own words into ``user_specified_image``.
    """
    name: str = spec.image
    claimed: str = getattr(spec, "user_specified_image", "")
    if is_name(name) or not (claimed or known):
        return name
    if claimed and (trusted or not known):
        return claimed
    wanted = _repository(claimed, short_names)
    return claimed if wanted in {_repository(each, short_names) for each in known} else known[0]


def _unknown(name: str) -> EvaluationError:
    detail = f"{name[:80]!r} has no registry, and the runtime has not answered Version yet"
    return EvaluationError("unknown_runtime", detail)


def _repository(name: str, short_names: str | None) -> tuple[str | None, str]:
    image = image_of(name, short_names)
    return image.registry, image.repository


def _split(name: str, short_names: str | None) -> tuple[str | None, str]:
    """Return the registry of a name, and the rest with a tag or digest.

    The rules are those of ``ParseNormalizedNamed`` and ``TagNameOnly`` of the distribution
    project's ``reference`` package, except for short names.
    """
    if "@" not in name and ":" not in name.rpartition("/")[2]:
        name += ":latest"
    first, slash, rest = name.partition("/")
    registry: str | None = first
    if not slash or not is_registry(first):
        registry, rest = short_names, name
    elif first == OLD_HUB:
        registry = HUB
    if registry == HUB and "/" not in rest:
        rest = "library/" + rest
    return registry, rest
