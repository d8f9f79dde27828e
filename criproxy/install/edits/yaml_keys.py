"""Sets top-level keys of a YAML or JSON mapping, without formatting the rest anew."""

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import yaml

from criproxy.errors import UsageError


def load_mapping(text: str, name: str) -> dict[str, Any]:
    """Parse a mapping; an empty document is an empty one. Raises UsageError, naming the file."""
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f":{where.line + 1}" if where is not None else ""
        raise UsageError(f"{name}{line}: not YAML; correct the file") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"{name}: not a mapping of keys to values; correct the file")
    return content


def set_keys(text: str, values: Mapping[str, str], name: str) -> str:
    """Return ``text`` with each key set to its value, in place where the key is there.

    Raises UsageError, naming the file, if it is not a mapping or the key cannot be set in place.
    """
    load_mapping(text, name)
    others = _others(text, values)
    for key, value in values.items():
        text = _set(text, key, value, name)
    with suppress(UsageError):
        after = load_mapping(text, name)
        is_set = all(after.get(key) == value for key, value in values.items())
        if is_set and _others(text, values) == others:
            return text
    keys = " and ".join(values)
    raise UsageError(f"{name}: {keys} cannot be set here; write it as a key on a line of its own")


def _others(text: str, keys: Collection[str]) -> str:
    """Return a mapping without some keys, formatted anew.

    Aliases remain such: the values that they stand for may be too many to be compared, or endless.
    Nodes that can be parsed can be serialized, too; values may be too deep for yaml.safe_dump.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    others = [(key, value) for key, value in pairs if key.value not in keys]
    return yaml.serialize(yaml.MappingNode("tag:yaml.org,2002:map", others))


def _set(text: str, key: str, value: str, name: str) -> str:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):  # empty, or comments alone
        return f"{_with_newline(text)}{key}: {value}\n"
    for written, node in root.value:
        if written.value == key:
            start, end = node.start_mark.index, node.end_mark.index
            if not isinstance(node, yaml.ScalarNode):
                raise UsageError(f"{name}: {key} is not a text; correct the file")
            quoted = json.dumps(value) if root.flow_style or node.style else value
            return text[:start] + (" " if start == end else "") + quoted + text[end:]
    if root.flow_style:
        opened = root.start_mark.index + 1
        comma = ", " if root.value else ""
        return f"{text[:opened]}{json.dumps(key)}: {json.dumps(value)}{comma}{text[opened:]}"
    # Where the mapping ends: before `...` or `---`, and behind its last line.
    end = root.end_mark.index
    return f"{_with_newline(text[:end])}{key}: {value}\n{text[end:]}"


def _with_newline(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"
