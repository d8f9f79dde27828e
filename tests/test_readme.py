"""The README's reference tables name what there is."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from typing import Any, ClassVar, get_args, get_origin

import click
import msgspec
import pytest
from click.testing import CliRunner

from criproxy.audit.counts import SinkCounts
from criproxy.cli import cli
from criproxy.config.load import load, parse
from criproxy.config.schema import Config
from criproxy.configtypes.section import Section
from criproxy.enforce.counts import Counts
from criproxy.observe.call_log import CallLine
from criproxy.observe.calls_in_flight import CallsInFlight, SlowCalls
from criproxy.observe.metrics import Metrics
from criproxy.rules.errors import REASONS as RULE_REASONS
from criproxy.rules.spec import RuleSpec
from criproxy.wire.errors import REASONS
from criproxy.wire.http2.windows import HeldBytesBudget
from criproxy.wire.reading.calls import End

README = (Path(__file__).parents[1] / "README.md").read_text()


def _keys(kind: type[Section], prefix: str = "") -> Iterator[str]:
    """The keys of a section; those of rules are the table of rules' own."""
    for field in msgspec.structs.fields(kind):
        section, listed = _section(field.type)
        if section is None or section is RuleSpec:
            yield f"{prefix}{field.encode_name}"
        else:
            yield from _keys(section, f"{prefix}{field.encode_name}{'[]' if listed else ''}.")


def _section(kind: Any, listed: bool = False) -> tuple[type[Section] | None, bool]:
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind, listed
    found = (_section(part, listed or get_origin(kind) is list) for part in get_args(kind))
    return next((each for each in found if each[0] is not None), (None, False))


class AuditNumbers:
    """What an audit log counts that has nothing to do."""

    sinks: ClassVar[dict[str, SinkCounts]] = {}
    waiting = refused_calls = 0


def _metrics() -> list[str]:
    metrics = Metrics(CallsInFlight(SlowCalls(0, {})), lambda: 0.0, "0")
    metrics.add_rules(Counts(), HeldBytesBudget())
    metrics.add_audit(AuditNumbers())
    return [
        family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        for family in metrics.registry.collect()
        if family.name.startswith("criproxy_")
    ]


@pytest.mark.parametrize("key", sorted([*_keys(Config), *_keys(RuleSpec)]))
def test_has_each_key_of_the_configuration(key: str) -> None:
    """Every key of the configuration has a row."""
    assert f"| `{key}` |" in README


@pytest.mark.parametrize("name", _metrics())
def test_has_each_metric(name: str) -> None:
    """Every metric has a row."""
    assert f"| `{name}` |" in README


@pytest.mark.parametrize(
    "word",
    [
        *(field.name for field in msgspec.structs.fields(CallLine)),
        *(*End, *REASONS, *sorted(RULE_REASONS)),
    ],
)
def test_has_each_field_of_a_call_and_each_end(word: str) -> None:
    """Every field of a call's line, every way to end, every reason not to read it, and every reason
    for a rule to fail is named."""
    assert f"`{word}`" in README


@pytest.mark.parametrize("name", sorted(cli.list_commands(click.Context(cli))))
def test_has_each_command(name: str) -> None:
    """Every command is described."""
    assert f"**`criproxy {name}" in README


ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
RULES = next(text for kind, text in BLOCKS if kind == "yaml" and text.startswith("rules:"))
EXAMPLE = (ROOT / "config.example.yaml").read_text()


def _rehearse(directory: Path, text: str, call: str) -> list[str]:
    """What ``rules test`` says to rules."""
    (directory / "rules.yaml").write_text(text)
    (directory / "call.yaml").write_text(call)
    options = ["rules", "test", "rules.yaml", "--call", "call.yaml"]
    with contextlib.chdir(directory):
        result = CliRunner().invoke(cli, options)
    assert result.exit_code == 0, result.exception
    output: str = result.output
    return output.splitlines()


CASES = {
    "mirror-docker-hub": (
        "method: PullImage\nrequest: {image: {image: docker.io/a}}",
        "+  image: mirror.local/docker.io/a",
    ),
    "team-label": (
        "method: RunPodSandbox\nrequest: {config: {metadata: {namespace: shop}}}",
        "+    team: blue-shop",
    ),
    "slow-pulls": (
        "method: PullImage\nrequest: {image: {image: quay.io/a}}",
        "  slow-pulls         acts: delay: 2s ± 0.5s, before, 10 % of calls",
    ),
    "flaky-start": (
        "method: StartContainer\nresponse: {}\npod: {namespace: chaos}",
        "answer UNAVAILABLE: injected (the runtime is asked)",
    ),
    "only-signed": (
        "method: CreateContainer\nrequest: {config: {image: {image: docker.io/a}}}",
        "answer PERMISSION_DENIED: image not allowed on this node (the runtime is not asked)",
    ),
}


@pytest.mark.parametrize(("call", "expected"), CASES.values(), ids=CASES)
def test_rules_do_what_they_say(call: str, expected: str, tmp_path: Path) -> None:
    """Each rule that is shown is one that can be loaded, and has its effect."""
    assert [*CASES] == [rule.name for rule in parse(RULES, "README.md").rules]
    assert expected in _rehearse(tmp_path, RULES, call)


def _uncommented(text: str, key: str) -> str:
    """What config.example.yaml shows in its comments of a key."""
    begin = text.index(f"# {key}:\n")
    shown = text[begin : text.index("# None, as it stands here.", begin)]
    return "".join(line.removeprefix("# ") for line in shown.splitlines(keepends=True))


WHOLE = ("audit", "profiles", "listeners", "rules", "metrics", "log", "slow")
"""Keys with which a configuration begins; others are of its section audit."""


@pytest.mark.parametrize(
    "text",
    [text for kind, text in BLOCKS if kind == "yaml" and "apiVersion" not in text],
)
def test_configurations_that_are_shown(text: str, tmp_path: Path) -> None:
    """Each configuration that is shown, or part of one, can be loaded."""
    key = text.lstrip("# ").partition(":")[0]
    if key in ("policy", "redact"):
        text = f"audit:\n  sinks: [{{stdout: {{}}}}]\n{indent(text, '  ')}"
    elif key not in WHOLE:
        return  # crictl's
    file = tmp_path / "config.yaml"
    file.write_text(text)
    assert load(file).config != Config()


@pytest.mark.parametrize("key", ["profiles", "audit"])
def test_keys_of_the_example(key: str) -> None:
    """So can what config.example.yaml shows of a key."""
    assert getattr(parse(_uncommented(EXAMPLE, key), "config.example.yaml"), key)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        CASES["mirror-docker-hub"],
        (CASES["only-signed"][0], "  only-signed        would act: deny: PERMISSION_DENIED"),
    ],
)
def test_rules_of_the_example(call: str, expected: str, tmp_path: Path) -> None:
    """So is each that config.example.yaml shows."""
    text = _uncommented(EXAMPLE, "rules")
    assert len(parse(text, "config.example.yaml").rules) == 2
    assert expected in _rehearse(tmp_path, text, call)


def test_what_rules_test_says(tmp_path: Path) -> None:
    """What the README shows of ``rules test`` is what it says to the rules that are shown."""
    session = next(text for kind, text in BLOCKS if text.startswith("$ cat call.yaml"))
    call, _, said = session.removeprefix("$ cat call.yaml\n").partition("$ criproxy rules test ")
    assert said.splitlines()[1:] == _rehearse(tmp_path, RULES, call)


def test_script() -> None:
    """The script that is shown is the one that there is."""
    shown = next(text for kind, text in BLOCKS if kind == "python")
    assert (ROOT / "deploy/hooks/label.py").read_text().endswith(shown)
