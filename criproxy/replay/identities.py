"""Values that name the same thing in the cassette and to the client, such as ids and uids."""

import re
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from criproxy.cri.messages import is_map

_MAX_VALUES: Final = 2000
"""Pairs that are remembered, the newest: a pod has a handful, and all are looked for in texts."""

_SHORTEST: Final = 8
"""Characters of a value from which on it can be found in texts without finding others."""


class Identities:
    """Replaces values of the cassette by those that the client knows, and back."""

    def __init__(self) -> None:
        self._to_client: OrderedDict[str, str] = OrderedDict()
        self._to_recorded: OrderedDict[str, str] = OrderedDict()
        self._given: OrderedDict[str, None] = OrderedDict()
        self._patterns: dict[int, re.Pattern[str] | None] = {}

    def give(self, recorded: str) -> str:
        """Return the id for something that a client creates, which is ``recorded`` in the cassette.

        The first time it is the recorded one, then a new one of the same length.
        """
        if recorded not in self._given:
            _remember(self._given, recorded, None)
            return recorded
        given = secrets.token_hex(len(recorded) // 2 + 1)[: len(recorded)]
        self.pair(recorded, given)
        return given

    def pair(self, recorded: str, clients: str) -> None:
        """Let a recorded value stand for a client's."""
        if recorded == clients or min(len(recorded), len(clients)) < _SHORTEST:
            return
        _remember(self._to_client, recorded, clients)
        _remember(self._to_recorded, clients, recorded)
        self._patterns.clear()

    def pair_pods(self, recorded: Message, clients: Message) -> None:
        """Pair the uids, and the labels of the same key, of two pods' or containers' configs."""
        was: Any = recorded
        now: Any = clients
        self.pair(getattr(was.metadata, "uid", ""), getattr(now.metadata, "uid", ""))
        for key, value in was.labels.items():
            self.pair(value, now.labels.get(key, ""))

    def for_client(self, message: Message) -> None:
        """Replace recorded values in a message by the client's, in place."""
        self._replace_in(message, self._to_client)

    def for_cassette(self, message: Message) -> None:
        """Replace a client's values in a message by the recorded ones, in place."""
        self._replace_in(message, self._to_recorded)

    def text_for_client(self, text: str) -> str:
        """Return a text with the client's values in place of recorded ones."""
        return self._replacement(self._to_client)(text)

    @property
    def is_empty(self) -> bool:
        """Whether nothing differs."""
        return not self._to_client

    def _replace_in(self, message: Message, values: OrderedDict[str, str]) -> None:
        if values:
            _map_strings(message, self._replacement(values))

    def _replacement(self, values: OrderedDict[str, str]) -> Callable[[str], str]:
        pattern = self._patterns.get(id(values))
        if pattern is None:
            longest_first = sorted(values, key=len, reverse=True)
            pattern = re.compile("|".join(map(re.escape, longest_first))) if values else None
            self._patterns[id(values)] = pattern
        if pattern is None:
            return lambda text: text
        found = pattern
        return lambda text: found.sub(lambda match: values[match[0]], text)


def _map_strings(message: Message, convert: Callable[[str], str]) -> None:
    for field, value in message.ListFields():
        if is_map(field):
            for key in list(value):
                if isinstance(value[key], str):
                    value[key] = convert(value[key])
        elif field.message_type is not None:
            for each in value if field.is_repeated else (value,):
                _map_strings(each, convert)
        elif field.type == FieldDescriptor.TYPE_STRING:
            if field.is_repeated:
                value[:] = map(convert, value)
            else:
                setattr(message, field.name, convert(value))


def _remember(values: OrderedDict[str, Any], key: str, value: Any) -> None:
    values[key] = value
    values.move_to_end(key)
    if len(values) > _MAX_VALUES:
        values.popitem(last=False)
