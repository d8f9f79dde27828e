"""config.example.yaml agrees with the schema."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from criproxy.config.load import parse
from criproxy.config.schema import Config
from criproxy.config.show import show

EXAMPLE = Path(__file__).resolve().parents[2] / "config.example.yaml"
TEXT = EXAMPLE.read_text(encoding="utf-8")


def paths(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of each key, also within lists."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield (*path, key)
            yield from paths(child, (*path, key))
    elif isinstance(value, list):
        for child in value:
            yield from paths(child, path)


DEFAULT = yaml.safe_load(show(Config()))


def lines_of(keys: tuple[str, ...]) -> list[int]:
    """Return the line numbers of a path's keys, from 0, by the marks of the YAML parser."""
    node = yaml.compose(TEXT, yaml.SafeLoader)
    found = []
    for name in keys:
        while isinstance(node, yaml.SequenceNode):
            node = node.value[0]
        assert isinstance(node, yaml.MappingNode)
        (key, node) = next(pair for pair in node.value if pair[0].value == name)
        found.append(key.start_mark.line)
    return found


def test_example_is_the_default() -> None:
    """The example is equal to an empty file."""
    assert parse(TEXT, "config.example.yaml") == Config()


@pytest.mark.parametrize("keys", [*paths(DEFAULT)], ids=".".join)
def test_every_key_has_a_comment(keys: tuple[str, ...]) -> None:
    """Each key is in the example, uncommented, with a comment above it."""
    assert keys in set(paths(yaml.safe_load(TEXT)))
    above = TEXT.splitlines()[lines_of(keys)[-1] - 1]
    assert re.match(r"\s*# \S", above), f"no comment above {'.'.join(keys)}: {above!r}"


def test_no_other_keys() -> None:
    """The example has no key that the schema does not have."""
    assert set(paths(yaml.safe_load(TEXT))) == set(paths(DEFAULT))
