"""Images under other names: renamed on the way to the runtime, and back on the way out.

A kubelet asks by the name in the pod's spec, and has to find in every answer what it asked for:
where names change one way only, it pulls and creates again without end. So each name is changed
in every message that carries one, in both directions.

How a name is read
    As containerd reads it: ``nginx`` is ``docker.io/library/nginx:latest``. Patterns are held
    against that full form, which is also how a runtime answers. Ids are no names and are never
    changed: ``sha256:…``, and hexadecimal digits alone, which is how crictl shortens an id (a
    kubelet gives every name a tag).

Which fields
    Those that hold a name by which an image is found, wherever in a request or response they
    are: ``image`` and ``image_ref`` of an ImageSpec (of a container, a filter, an image volume),
    ``repo_tags`` and ``repo_digests`` of an Image, and the ``image_ref`` of a container, its
    status, and a pull, which a kubelet puts into its next CreateContainer.

Which fields are left alone
    ``user_specified_image``: what the user wrote, in both directions. A runtime shows it and may
    check a signature's policy by it; it finds nothing by it. ``Image.id`` and ``image_id``: a
    kubelet tells by comparing these which images are in use, and must find them equal.
    Annotations, and the ``info`` of verbose answers: the runtime's own words. The image of the
    sandbox itself is fetched by the runtime from its own configuration; no call names it.

An image that the runtime has under both names is listed under one. Two different images, one of
them by its own name and the other by a changed one, may both be listed under that name: a call
with the name reaches the renamed one.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from criproxy.cri.messages import request_class, response_class
from criproxy.cri.methods import METHODS

_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "ImageSpec": ("image", "image_ref"),
    "Image": ("repo_tags", "repo_digests"),
    "Container": ("image_ref",),
    "ContainerStatus": ("image_ref",),
    "PullImageResponse": ("image_ref",),
}
"""The fields that hold names, by the message's short name: the same in both API versions."""

_HUB: Final = "docker.io"
_OLD_HUB: Final = "index.docker.io"
_ID: Final = re.compile(r"(?:sha256:|sha512:)?[0-9a-f]+")


class PairError(ValueError):
    """A pair of patterns cannot be used. ``index`` is its place, ``key`` is ``from`` or ``to``."""

    def __init__(self, index: int, key: str, message: str) -> None:
        super().__init__(message)
        self.index = index
        self.key = key


# Names
# -----


def _full(name: str) -> str | None:
    """Return a name with its registry and tag, as a runtime reads it; None for what is no name."""
    if not name or "<" in name or _ID.fullmatch(name):  # "<none>:<none>": an image without names
        return None
    if "@" not in name and ":" not in name.rpartition("/")[2]:
        name += ":latest"
    registry, slash, rest = name.partition("/")
    if not slash or not _is_registry(registry):
        registry, rest = _HUB, name
    if registry == _OLD_HUB:
        registry = _HUB
    if registry == _HUB and "/" not in rest:
        rest = "library/" + rest
    return f"{registry}/{rest}"


def _is_registry(part: str) -> bool:
    """Tell whether what is before the first slash names a registry (and not a user of Docker's)."""
    return part == "localhost" or "." in part or ":" in part or part != part.lower()


# Patterns
# --------


@dataclass(frozen=True, slots=True)
class _Pattern:
    prefix: str
    suffix: str

    def translate(self, name: str, into: "_Pattern") -> str | None:
        """Return ``name`` with this pattern's words replaced by another's; None if it fails."""
        end = len(name) - len(self.suffix)
        if end < len(self.prefix) or not name.startswith(self.prefix) or name[end:] != self.suffix:
            return None
        return into.prefix + name[len(self.prefix) : end] + into.suffix

    def covers(self, other: "_Pattern") -> bool:
        """Tell whether this holds for every name that ``other`` holds for."""
        return other.prefix.startswith(self.prefix) and other.suffix.endswith(self.suffix)

    def __str__(self) -> str:
        return f"{self.prefix}*{self.suffix}"


@dataclass(frozen=True, slots=True)
class _Pair:
    from_: _Pattern
    to: _Pattern


def _pair(index: int, from_: str, to: str) -> _Pair:
    return _Pair(_pattern(index, "from", from_), _pattern(index, "to", to))


def _pattern(index: int, key: str, text: str) -> _Pattern:
    if text.count("*") != 1:
        raise PairError(index, key, f"{text!r} needs one *, as in docker.io/*")
    registry, slash, rest = text.partition("/")
    anywhere = key == "from" and text.startswith("*")
    if not anywhere and not (slash and _is_registry(registry)):
        raise PairError(
            index, key, f"{text!r} does not begin with a registry; write it in full: docker.io/*"
        )
    prefix, _, suffix = text.partition("*")
    if registry in (_HUB, _OLD_HUB) and "/" not in rest and re.search("[:@].*[*]", rest):
        raise PairError(index, key, f"{text!r} is docker.io/library/{rest} when written in full")
    return _Pattern(prefix.replace(_OLD_HUB + "/", _HUB + "/"), suffix)


def _check_order(pairs: Sequence[_Pair]) -> None:
    """Raise PairError for a pair that those before it leave nothing to do, in one direction."""
    for index, pair in enumerate(pairs):
        for earlier in pairs[:index]:
            if earlier.from_.covers(pair.from_):
                raise PairError(
                    index, "from", f"{pair.from_} never acts: {earlier.from_} is before it"
                )
            if earlier.to.covers(pair.to):
                raise PairError(
                    index,
                    "to",
                    f"{pair.to} could not be told from {earlier.to} on the way back, which is"
                    f" {earlier.from_}; name another, or put the narrower of the two first",
                )


# Messages
# --------


@dataclass(frozen=True, slots=True)
class _Places:
    """Where in a message names are: its own fields, and those that hold messages with names."""

    own: tuple[str, ...]
    repeated: tuple[str, ...]
    inner: tuple[tuple[str, "_Places"], ...]
    inner_repeated: tuple[tuple[str, "_Places"], ...]

    def __bool__(self) -> bool:
        return any((self.own, self.repeated, self.inner, self.inner_repeated))


@cache  # as many as the CRI has messages
def _places(descriptor: Descriptor) -> _Places:
    fields = descriptor.fields
    named = [field for field in fields if field.name in _NAMES.get(descriptor.name, ())]
    inner = [
        (field, places)
        for field in fields
        if field.message_type is not None and (places := _places(field.message_type))
    ]
    return _Places(
        own=tuple(field.name for field in named if not field.is_repeated),
        repeated=tuple(field.name for field in named if field.is_repeated),
        inner=tuple((field.name, places) for field, places in inner if not field.is_repeated),
        inner_repeated=tuple((field.name, places) for field, places in inner if field.is_repeated),
    )


def _rename(message: Message, places: _Places, rename: Callable[[str], str]) -> bool:
    changed = False
    for name in places.own:
        before = getattr(message, name)
        if (after := rename(before)) != before:
            setattr(message, name, after)
            changed = True
    for name in places.repeated:
        names = list(getattr(message, name))
        if (renamed := [rename(each) for each in names]) != names:
            message.ClearField(name)
            getattr(message, name).extend(dict.fromkeys(renamed))
            changed = True
    for each, within in _inner(message, places):
        changed |= _rename(each, within, rename)
    return changed


def _inner(message: Message, places: _Places) -> Iterator[tuple[Message, _Places]]:
    for name, within in places.inner:
        if message.HasField(name):
            yield getattr(message, name), within
    for name, within in places.inner_repeated:
        for each in getattr(message, name):
            yield each, within


# Both
# ----


class ImageMap:
    """Renames images by pairs of patterns; the first pair that holds for a name is taken."""

    requests: Final = frozenset(
        method.name for method in METHODS.values() if _places(request_class(method).DESCRIPTOR)
    )
    """The methods whose requests :meth:`request` may change."""
    responses: Final = frozenset(
        method.name for method in METHODS.values() if _places(response_class(method).DESCRIPTOR)
    )
    """The methods whose responses :meth:`response` may change."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        """``pairs`` are (from, to), with one ``*`` in each that stands for the same text.

        Raises PairError where a pattern is not a full name with a registry, where a pair can
        never act because of one before it, and where the names of two pairs could not be told
        apart on the way back.
        """
        self._pairs = tuple(_pair(index, *pair) for index, pair in enumerate(pairs))
        _check_order(self._pairs)

    def forward(self, name: str) -> str:
        """Return the name by which the runtime is asked; ``name`` itself where no pair holds."""
        full = _full(name)
        return name if full is None else self._sent(full) or name

    def backward(self, name: str) -> str:
        """Return the name by which the client knows an image of the runtime's.

        A name comes back only as one that leads to it again: ``forward`` of the result is the
        name that was given, in full. All others stay as they are.
        """
        full = _full(name)
        if full is None:
            return name
        for pair in self._pairs:
            known = pair.to.translate(full, pair.from_)
            if known is not None and self.forward(known) == full:
                return known
        return name

    def request(self, message: Message) -> bool:
        """Rename in a request, in place. Return whether anything changed."""
        return _rename(message, _places(message.DESCRIPTOR), self.forward)

    def response(self, message: Message) -> bool:
        """Rename back in a response, or in one message of its stream, in place.

        Return whether anything changed.
        """
        return _rename(message, _places(message.DESCRIPTOR), self.backward)

    def _sent(self, full: str) -> str | None:
        for pair in self._pairs:
            if (sent := pair.from_.translate(full, pair.to)) is not None:
                return _full(sent)  # of docker.io, that may be another
        return None
