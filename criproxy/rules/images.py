"""Renaming of images in requests, and back in responses (``rewrite_images``).

A kubelet has to find in each response the name that it asked for: if names change in one direction
only, it pulls and creates again without end. So a name is changed in every message that contains
it, in both directions.

Names
    A name is normalized as by the runtime: for containerd, ``nginx`` is
    ``docker.io/library/nginx:latest`` (see image_names). Patterns are compared with the normalized
    name, which is also what a runtime answers. Ids are not names
    and never change: ``sha256:…``, and hexadecimal digits alone, which is how crictl shortens an id
    (a kubelet adds a tag to every name).

Fields that are renamed
    Those by which an image is found, anywhere in a request or response: ``image`` and ``image_ref``
    of an ImageSpec (of a container, a filter, an image volume), ``repo_tags`` and ``repo_digests``
    of an Image, and the ``image_ref`` of a container, of its status, and of a pull, which a kubelet
    puts into its next CreateContainer.

Fields that are not renamed
    ``user_specified_image``: the user's own words, which a runtime shows and may use for signature
    policies. ``Image.id`` and ``image_id``: a kubelet compares these to find the images in use.
    Annotations, and the ``info`` of verbose responses. No call names the image of the pod sandbox
    itself, which the runtime takes from its configuration.

An image that the runtime has under both names is listed under one. If two different images would
be listed under the same name, a call with that name reaches the renamed one.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Final

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from criproxy.cri.messages import request_class, response_class
from criproxy.cri.methods import METHODS
from criproxy.rules.image_names import AS_WRITTEN, HUB, OLD_HUB, is_registry, normalized

_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "ImageSpec": ("image", "image_ref"),
    "Image": ("repo_tags", "repo_digests"),
    "Container": ("image_ref",),
    "ContainerStatus": ("image_ref",),
    "PullImageResponse": ("image_ref",),
}
"""The fields that contain names, by the message's short name, in both API versions."""


class PairError(ValueError):
    """A pair of patterns that cannot be used: its index, and the key ``from`` or ``to``."""

    def __init__(self, index: int, key: str, message: str) -> None:
        super().__init__(message)
        self.index = index
        self.key = key


# Patterns
# --------


@dataclass(frozen=True, slots=True)
class _Pattern:
    prefix: str
    suffix: str

    def translate(self, name: str, into: "_Pattern") -> str | None:
        """Return ``name`` with this pattern replaced by another; None if it does not match."""
        end = len(name) - len(self.suffix)
        if end < len(self.prefix) or not name.startswith(self.prefix) or name[end:] != self.suffix:
            return None
        return into.prefix + name[len(self.prefix) : end] + into.suffix

    def covers(self, other: "_Pattern") -> bool:
        """Return whether this matches every name that ``other`` matches."""
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
    if not anywhere and not (slash and is_registry(registry)):
        raise PairError(
            index, key, f"{text!r} does not begin with a registry; write it in full: docker.io/*"
        )
    prefix, _, suffix = text.partition("*")
    if registry in (HUB, OLD_HUB) and "/" not in rest and re.search("[:@].*[*]", rest):
        raise PairError(index, key, f"{text!r} is docker.io/library/{rest} when written in full")
    return _Pattern(prefix.replace(OLD_HUB + "/", HUB + "/"), suffix)


def _check_order(pairs: Sequence[_Pair]) -> None:
    """Raise PairError for a pair that never applies, in one direction, because of one before it."""
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
class _NameFields:
    """The fields of a message that contain names, or messages with names."""

    own: tuple[str, ...]
    repeated: tuple[str, ...]
    inner: tuple[tuple[str, "_NameFields"], ...]
    inner_repeated: tuple[tuple[str, "_NameFields"], ...]

    def __bool__(self) -> bool:
        return any((self.own, self.repeated, self.inner, self.inner_repeated))


@cache  # bounded by the number of messages of the CRI
def _name_fields(descriptor: Descriptor) -> _NameFields:
    fields = descriptor.fields
    names = [field for field in fields if field.name in _NAMES.get(descriptor.name, ())]
    inner = [
        (field, within)
        for field in fields
        if field.message_type is not None and (within := _name_fields(field.message_type))
    ]
    return _NameFields(
        own=tuple(field.name for field in names if not field.is_repeated),
        repeated=tuple(field.name for field in names if field.is_repeated),
        inner=tuple((field.name, within) for field, within in inner if not field.is_repeated),
        inner_repeated=tuple((field.name, within) for field, within in inner if field.is_repeated),
    )


def _rename(message: Message, fields: _NameFields, rename: Callable[[str], str]) -> bool:
    changed = False
    for name in fields.own:
        before = getattr(message, name)
        if (after := rename(before)) != before:
            setattr(message, name, after)
            changed = True
    for name in fields.repeated:
        names = list(getattr(message, name))
        if (renamed := [rename(each) for each in names]) != names:
            message.ClearField(name)
            getattr(message, name).extend(dict.fromkeys(renamed))
            changed = True
    for each, within in _inner(message, fields):
        changed |= _rename(each, within, rename)
    return changed


def _inner(message: Message, fields: _NameFields) -> Iterator[tuple[Message, _NameFields]]:
    for name, within in fields.inner:
        if message.HasField(name):
            yield getattr(message, name), within
    for name, within in fields.inner_repeated:
        for each in getattr(message, name):
            yield each, within


# Renaming
# --------


class ImageMap:
    """Renames images by pairs of patterns; the first pair that matches a name applies."""

    requests: Final = frozenset(
        method.name for method in METHODS.values() if _name_fields(request_class(method).DESCRIPTOR)
    )
    """The methods whose requests :meth:`request` may change."""
    responses: Final = frozenset(
        method.name
        for method in METHODS.values()
        if _name_fields(response_class(method).DESCRIPTOR)
    )
    """The methods whose responses :meth:`response` may change."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        """``pairs`` are (from, to), each with one ``*``, which stands for the same text in both.

        Raises PairError for a pattern without a registry, for a pair that never applies because of
        one before it, and for pairs whose renamed images could not be distinguished.
        """
        self._pairs = tuple(_pair(index, *pair) for index, pair in enumerate(pairs))
        _check_order(self._pairs)

    def forward(self, name: str, short_names: str | None = HUB) -> str:
        """Return the name that is sent to the runtime; ``name`` if no pair matches.

        ``short_names`` is how the runtime reads names without a registry, see image_names. Raises
        EvaluationError for such a name if it is None.
        """
        full = normalized(name, short_names)
        return name if full is None else self._sent(full) or name

    def backward(self, name: str, short_names: str | None = HUB) -> str:
        """Return the client's name of an image that the runtime names.

        ``forward`` of the result is ``name``, normalized; a name for which there is no such result
        is returned unchanged.
        """
        reading = short_names or AS_WRITTEN  # a runtime answers with full names
        full = normalized(name, reading)
        if full is None:
            return name
        for pair in self._pairs:
            known = pair.to.translate(full, pair.from_)
            if known is not None and self.forward(known, reading) == full:
                return known
        return name

    def request(self, message: Message, short_names: str | None = HUB) -> bool:
        """Rename images in a request, in place. Returns whether anything changed.

        Raises EvaluationError as :meth:`forward` does.
        """
        rename = partial(self.forward, short_names=short_names)
        return _rename(message, _name_fields(message.DESCRIPTOR), rename)

    def response(self, message: Message, short_names: str | None = HUB) -> bool:
        """Rename images back in a response, or in one message of a stream, in place.

        Returns whether anything changed.
        """
        rename = partial(self.backward, short_names=short_names)
        return _rename(message, _name_fields(message.DESCRIPTOR), rename)

    def _sent(self, full: str) -> str | None:
        for pair in self._pairs:
            if (sent := pair.from_.translate(full, pair.to)) is not None:
                return normalized(sent, AS_WRITTEN)  # a name of docker.io may change
        return None
