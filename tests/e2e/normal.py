"""Replaces the parts of messages that differ between two runs of the same calls.

Only what must differ from one run to the next is replaced: the ids that the runtime hands out,
its clock, addresses leased to pods, tokens of streaming URLs, and measurements.
"""

import re
from collections.abc import Mapping, Sequence

from google.protobuf.message import Message

TIMES = frozenset({"created_at", "finished_at", "started_at", "timestamp"})
MEASURES = frozenset({"UInt64Value"})
SAMPLED = frozenset({"CpuUsage.usage_nano_cores", "FilesystemUsage.timestamp"})
"""Fields that containerd fills in only once it has sampled, which it does every ten seconds."""
COUNTERS = frozenset({"rx_bytes", "tx_bytes", "rx_errors", "tx_errors"})
UNORDERED = frozenset({"images", "repo_digests", "repo_tags"})
"""Lists that containerd builds from a Go map."""

_STREAMING_URL = re.compile(r"^(http://127\.0\.0\.1:\d+/(?:exec|attach|portforward)/)[\w-]{8}$")
_EXEC_ID = re.compile(r'(?<=exec ")[0-9a-f]{64}(?=")')

Plain = dict[str, object]


def normalise(message: Message, names: Mapping[str, str]) -> Plain:
    """Return a message's present fields as plain values that do not depend on the run.

    ``names`` maps each id that the runtime gave to the name that stands for it; it is replaced
    wherever it occurs in a string.
    """
    return {
        field.name: _field(field.name, value, names)
        for field, value in message.ListFields()
        if f"{message.DESCRIPTOR.name}.{field.name}" not in SAMPLED
    }


def rename(text: str, names: Mapping[str, str]) -> str:
    """Replace each id in ``text`` by its name, and ids that only occur in errors."""
    for given, name in names.items():
        text = text.replace(given, name)
    return _EXEC_ID.sub("<exec>", text)


def _field(name: str, value: object, names: Mapping[str, str]) -> object:
    if name in TIMES:
        return "<time>"
    if name == "ip":
        return "<address>"
    if isinstance(value, Message):
        if value.DESCRIPTOR.name in MEASURES:
            return "<measure>"
        return normalise(value, names)
    if isinstance(value, str):
        return _STREAMING_URL.sub(r"\1<token>", rename(value, names))
    if isinstance(value, Mapping):
        return {key: _field("", entry, names) for key, entry in sorted(value.items())}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        items = [_field("", item, names) for item in value]
        return sorted(items, key=repr) if name in UNORDERED else items
    return "<measure>" if name in COUNTERS else value
