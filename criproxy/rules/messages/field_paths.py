"""Field paths: ``image.image``, ``config.labels["team"]``, ``mounts[]``, ``envs[0].value``.

A path is parsed against a message type, so that a misspelt one is an error when it is loaded. It
sets or clears a field in messages of that type.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from criproxy.cri.messages import is_map
from criproxy.rules.cel.conversion import AssignmentTarget, fill
from criproxy.rules.cel.expressions import suggestion
from criproxy.rules.errors import EvaluationError

_STEP: Final = re.compile(
    r"""(?P<name>[A-Za-z_]\w*)
        (?P<bracket>\[(?:(?P<index>\d+)|(?P<key>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'))?\])?
        (?:\.(?=.)|$)""",
    re.VERBOSE,
)
_APPEND: Final = None


class PathError(ValueError):
    """An invalid path: one line with the reason."""


@dataclass(frozen=True, slots=True)
class _Step:
    """A field, or with ``bracket`` one element of it: ``at`` is the index or the key, None for a
    new element at the end."""

    field: FieldDescriptor
    bracket: bool = False
    at: int | str | None = None


@dataclass(frozen=True, slots=True)
class Path:
    """A parsed path. ``target`` is the field or element at the path."""

    text: str
    target: AssignmentTarget
    appends: bool
    _parents: tuple[_Step, ...]
    _last: _Step

    def set(self, message: Message, value: Any) -> None:
        """Set the field or element at the path to a converted value, not None. Missing parents are
        created. Raises EvaluationError if an index does not exist."""
        parent = message
        for step in self._parents:
            parent = self._below(parent, step)
        step = self._last
        if not step.bracket:
            fill(parent, step.field, value)
            return
        field = getattr(parent, step.field.name)
        if step.at is _APPEND:
            field.append(value)
        elif isinstance(step.at, int):
            self._replace(field, step, value)
        else:
            field[step.at] = value

    def clear(self, message: Message) -> None:
        """Clear the field or remove the element at the path, if present."""
        parent = message
        for step in self._parents:
            below = _existing(parent, step)
            if below is None:
                return
            parent = below
        step = self._last
        if not step.bracket:
            parent.ClearField(step.field.name)
            return
        field = getattr(parent, step.field.name)
        if (step.at in field) if isinstance(step.at, str) else (int(step.at or 0) < len(field)):
            del field[step.at]

    def _below(self, parent: Message, step: _Step) -> Message:
        found = getattr(parent, step.field.name)
        if step.bracket:
            self._check_index(found, step)
            found = found[step.at]
        assert isinstance(found, Message)
        return found

    def _replace(self, elements: Any, step: _Step, value: Any) -> None:
        self._check_index(elements, step)
        if isinstance(value, Message):
            elements[step.at].CopyFrom(value)
        else:
            elements[step.at] = value

    def _check_index(self, elements: Any, step: _Step) -> None:
        if int(step.at or 0) >= len(elements):
            raise EvaluationError(
                "cel", f"{self.text}: {step.field.name} has {len(elements)}, counted from 0"
            )


def _existing(parent: Message, step: _Step) -> Message | None:
    found: Message
    if step.bracket:
        elements = getattr(parent, step.field.name)
        at = int(step.at or 0)
        if at >= len(elements):
            return None
        found = elements[at]
    elif not parent.HasField(step.field.name):
        return None
    else:
        found = getattr(parent, step.field.name)
    return found


def parse_path(text: str, descriptor: Descriptor) -> Path:
    """Parse a path within a message type. Raises PathError."""
    if not text.isprintable() and text.encode("utf-8", "ignore").decode() != text:
        raise PathError("is not text that UTF-8 can have")  # a lone surrogate
    steps: list[_Step] = []
    position = 0
    current: Descriptor | None = descriptor
    while position < len(text) or not steps:
        found = _STEP.match(text, position)
        if found is None:
            raise PathError(
                'is no path; write it like image.image, config.labels["team"], config.mounts[]'
                " or config.mounts[0].host_path"
            )
        current = _enter(steps, current)
        steps.append(_step(found, current))
        position = found.end()
    *parents, last = steps
    target = AssignmentTarget(last.field)
    return Path(
        text=text,
        target=target.one if last.bracket else target,
        appends=last.bracket and last.at is _APPEND,
        _parents=tuple(parents),
        _last=last,
    )


def _enter(steps: list[_Step], current: Descriptor | None) -> Descriptor:
    """Return the message type that contains the next step's field."""
    if not steps:
        assert current is not None
        return current
    step = steps[-1]
    field = step.field
    if field.message_type is None or is_map(field):
        raise PathError(f"{field.name} is {AssignmentTarget(field)}, which has no fields")
    if field.is_repeated and not step.bracket:
        raise PathError(f"{field.name} is a list: say which one, {field.name}[0]")
    if step.bracket and step.at is _APPEND:
        raise PathError(f"{field.name}[] is a new element, which is set as a whole: {{...}}")
    return field.message_type


def _step(found: re.Match[str], message: Descriptor) -> _Step:
    name = found["name"]
    field = message.fields_by_name.get(name)
    if field is None:
        names = [each.name for each in message.fields]
        raise PathError(f"undefined field {name!r} in {message.full_name}{suggestion(name, names)}")
    if found["bracket"] is None:
        return _Step(field)
    if is_map(field):
        if found["key"] is None:
            raise PathError(f'{name} is a map: say which key, {name}["key"]')
        return _Step(field, True, re.sub(r"\\(.)", r"\1", found["key"][1:-1]))
    if not field.is_repeated:
        raise PathError(f"{name} is {AssignmentTarget(field)}, which has no elements")
    if found["key"] is not None:
        raise PathError(f"{name} is a list: say which one, {name}[0], or {name}[] to append")
    return _Step(field, True, _APPEND if found["index"] is None else int(found["index"]))
