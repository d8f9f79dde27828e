"""Removal of fields that a profile hides from responses (``scrub``).

``environment``: the values of every ``KeyValue``. ``mounts``: mounts and host paths of logs.
``info``: the whole ``info`` of verbose responses. ``info`` and annotations may contain the same
data as JSON: a runtime's description of a container, or a manifest stored by kubectl. There,
environment and mounts are removed by key. The mount point of an image filesystem is not removed.
"""

import json
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from criproxy.cri.messages import is_map

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
    """Removes from messages what ``scrub`` names: ``environment``, ``info``, ``mounts``."""

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
        """Return whether messages of a type may contain anything to remove."""
        return _any_field(kind, self._is_scrubbed, set())

    def scrub(self, message: Message) -> None:
        """Scrub a message and the messages within it, in place."""
        if not self.touches(message.DESCRIPTOR):
            return
        for field, value in message.ListFields():
            if self._is_removed(field):
                message.ClearField(field.name)
            elif self._is_json(field):
                for key in list(value):
                    self._scrub_entry(value, key)
            elif field.message_type is None or is_map(field):
                continue
            elif field.is_repeated:
                for each in value:
                    self.scrub(each)
            else:
                self.scrub(value)

    def _is_scrubbed(self, field: FieldDescriptor) -> bool:
        return self._is_removed(field) or self._is_json(field)

    def _is_removed(self, field: FieldDescriptor) -> bool:
        owner = field.containing_type
        kind = field.message_type
        if self._info and field.name == "info" and is_map(field):
            return True
        if self._environment and owner is not None and owner.name == "KeyValue":
            return field.name == "value"
        return self._mounts and (
            (kind is not None and kind.name == "Mount") or field.name in _PATHS
        )

    def _is_json(self, field: FieldDescriptor) -> bool:
        return bool(self._keys) and field.name in ("annotations", "info") and is_map(field)

    def _scrub_entry(self, entries: Any, key: str) -> None:
        text = entries[key]
        if not _is_like_json(text):
            return
        try:
            value = _parse_json(text)
        except (ValueError, RecursionError):  # a text that cannot be parsed cannot be scrubbed
            del entries[key]
            return
        try:
            scrubbed = self._scrubbed(value)
        except RecursionError:
            del entries[key]
            return
        if scrubbed != value:
            entries[key] = json.dumps(scrubbed)

    def _scrubbed(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: self._scrubbed(each)
                for key, each in value.items()
                if _normalized(key) not in self._keys
            }
        if isinstance(value, list):
            return [self._scrubbed(each) for each in value]
        if isinstance(value, str) and _is_like_json(value):
            try:  # JSON within JSON: an annotation within a configuration
                inner = _parse_json(value)
            except ValueError:
                return ""
            scrubbed = self._scrubbed(inner)
            return value if scrubbed == inner else json.dumps(scrubbed)
        return value


def _parse_json(text: str) -> Any:
    """Parse JSON. Raises ValueError also for a duplicate key, of which only the last value would be
    scrubbed."""
    return json.loads(text, object_pairs_hook=_mapping)


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("a key comes twice")
    return mapping


def _is_like_json(text: str) -> bool:
    """Return whether a text may be JSON with a mapping; a quoted text may contain JSON."""
    return text.lstrip("\ufeff \t\r\n")[:1] in ("{", "[", '"')


def _normalized(key: str) -> str:
    """Return a key in lower case, without the characters that join its words."""
    return key.lower().replace("_", "").replace("-", "")


def _any_field(
    kind: Descriptor, is_scrubbed: Callable[[FieldDescriptor], bool], seen: set[str]
) -> bool:
    if kind.full_name in seen:
        return False
    seen.add(kind.full_name)
    for field in kind.fields:
        if is_scrubbed(field):
            return True
        inner = field.message_type
        if inner is not None and not is_map(field) and _any_field(inner, is_scrubbed, seen):
            return True
    return False
