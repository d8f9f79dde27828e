"""Responses without what a profile keeps from its clients.

Environment values are taken out of ``KeyValue`` wherever that stands, mounts and the host's paths
of logs by their fields, ``info`` (what verbose answers add) as a whole. ``info`` and annotations
may have the same things once more as JSON: a runtime's own description of a container, a manifest
that kubectl has kept. There they are found by their keys. What an image filesystem is mounted at
is no mount of a container's, and stays.
"""

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

_PATHS: Final = frozenset({"host_path", "log_path", "log_directory"})
_ENVIRONMENT_KEYS: Final = frozenset(
    {"env", "envs", "envfrom", "environ", "environment", "environmentvariables", "envvars"}
)
_MOUNT_KEYS: Final = frozenset(
    {
        "mounts",
        "mount",
        "volumemounts",
        "volumes",
        "hostpath",
        "logpath",
        "logdirectory",
        "devices",
        "binds",
    }
)


class Scrubber:
    """Takes out of messages what ``scrub`` names: ``environment``, ``info``, ``mounts``."""

    def __init__(self, scrub: Iterable[str]) -> None:
        wanted = frozenset(scrub)
        self._environment = "environment" in wanted
        self._mounts = "mounts" in wanted
        self._info = "info" in wanted
        self._keys = (_ENVIRONMENT_KEYS if self._environment else frozenset()) | (
            _MOUNT_KEYS if self._mounts else frozenset()
        )
        self.touches = lru_cache(maxsize=None)(self._touches)

    def _touches(self, kind: Descriptor) -> bool:
        """Tell whether messages of a type may have something that is to be taken out."""
        return _any_field(kind, self._is_meant, set())

    def scrub(self, message: Message) -> None:
        """Take it out of a message, which is changed, and of those within."""
        if not self.touches(message.DESCRIPTOR):
            return
        for field, value in message.ListFields():
            if self._is_removed(field):
                message.ClearField(field.name)
            elif self._is_json(field):
                for key in list(value):
                    self._scrub_entry(value, key)
            elif field.message_type is None or _is_map(field):
                continue
            elif field.is_repeated:
                for each in value:
                    self.scrub(each)
            else:
                self.scrub(value)

    def _is_meant(self, field: FieldDescriptor) -> bool:
        return self._is_removed(field) or self._is_json(field)

    def _is_removed(self, field: FieldDescriptor) -> bool:
        owner = field.containing_type
        kind = field.message_type
        if self._info and field.name == "info" and _is_map(field):
            return True
        if self._environment and owner is not None and owner.name == "KeyValue":
            return field.name == "value"
        return self._mounts and (
            (kind is not None and kind.name == "Mount") or field.name in _PATHS
        )

    def _is_json(self, field: FieldDescriptor) -> bool:
        return bool(self._keys) and field.name in ("annotations", "info") and _is_map(field)

    def _scrub_entry(self, entries: Any, key: str) -> None:
        text = entries[key]
        if not _is_like_json(text):
            return
        try:
            value = _read(text)
        except (ValueError, RecursionError):  # what cannot be read may have anything in it
            del entries[key]
            return
        try:
            scrubbed = self._without(value)
        except RecursionError:
            del entries[key]
            return
        if scrubbed != value:
            entries[key] = json.dumps(scrubbed)

    def _without(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: self._without(each)
                for key, each in value.items()
                if _plain(key) not in self._keys
            }
        if isinstance(value, list):
            return [self._without(each) for each in value]
        if isinstance(value, str) and _is_like_json(value):
            try:  # JSON within JSON: an annotation within a configuration
                inner = _read(value)
            except ValueError:
                return ""
            scrubbed = self._without(inner)
            return value if scrubbed == inner else json.dumps(scrubbed)
        return value


def _read(text: str) -> Any:
    """Read JSON. Raises ValueError, too, where a key comes twice: of such a mapping one value would
    be looked at, and all of them shown."""
    return json.loads(text, object_pairs_hook=_mapping)


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("a key comes twice")
    return mapping


def _is_like_json(text: str) -> bool:
    """Tell whether a text may have a mapping within: a text in quotes may, as JSON within JSON."""
    return text.lstrip("\ufeff \t\r\n")[:1] in ("{", "[", '"')


def _plain(key: str) -> str:
    """Return a key as it is looked for: without regard to how its words are joined."""
    return key.lower().replace("_", "").replace("-", "")


def _any_field(kind: Descriptor, meant: Any, seen: set[str]) -> bool:
    if kind.full_name in seen:
        return False
    seen.add(kind.full_name)
    for field in kind.fields:
        if meant(field):
            return True
        inner = field.message_type
        if inner is not None and not _is_map(field) and _any_field(inner, meant, seen):
            return True
    return False


def _is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and kind.GetOptions().map_entry
