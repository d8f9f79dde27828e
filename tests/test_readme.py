"""The README's reference tables name what there is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
import pytest

from criproxy.cli import cli
from criproxy.config.schema import Config
from criproxy.observe.calllog import CallLine
from criproxy.observe.flight import CallsInFlight, SlowCalls
from criproxy.observe.metrics import Metrics
from criproxy.section import Section
from criproxy.wire.calls import End
from criproxy.wire.errors import REASONS

README = (Path(__file__).parents[1] / "README.md").read_text()


def _keys(kind: type[Section], prefix: str = "") -> Iterator[str]:
    for field in msgspec.structs.fields(kind):
        section, listed = _section(field.type)
        if section is None:
            yield f"{prefix}{field.name}"
        else:
            yield from _keys(section, f"{prefix}{field.name}{'[]' if listed else ''}.")


def _section(kind: Any) -> tuple[type[Section] | None, bool]:
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind, False
    inner = get_args(kind)
    if inner and isinstance(inner[0], type) and issubclass(inner[0], Section):
        return inner[0], True
    return None, False


def _metrics() -> list[str]:
    metrics = Metrics(CallsInFlight(SlowCalls(0, {})), lambda: 0.0, "0")
    return [
        family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        for family in metrics.registry.collect()
        if family.name.startswith("criproxy_")
    ]


@pytest.mark.parametrize("key", sorted(_keys(Config)))
def test_has_each_key_of_the_configuration(key: str) -> None:
    """Every key of the configuration has a row."""
    assert f"| `{key}` |" in README


@pytest.mark.parametrize("name", _metrics())
def test_has_each_metric(name: str) -> None:
    """Every metric has a row."""
    assert f"| `{name}` |" in README


@pytest.mark.parametrize(
    "word", [*(field.name for field in msgspec.structs.fields(CallLine)), *End, *REASONS]
)
def test_has_each_field_of_a_call_and_each_end(word: str) -> None:
    """Every field of a call's line, every way to end, and every reason not to read is named."""
    assert f"`{word}`" in README


@pytest.mark.parametrize("name", sorted(cli.list_commands(click.Context(cli))))
def test_has_each_command(name: str) -> None:
    """Every command is described."""
    assert f"**`criproxy {name}" in README
