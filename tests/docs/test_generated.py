"""The generated pages are current and complete."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from criproxy.config.schema import Config
from criproxy.observe.logs.call_line import CallLine
from criproxy.rules.cel.variables import VARIABLES, VariableTypes
from criproxy.rules.errors import REASONS as RULE_REASONS
from criproxy.rules.spec import RuleSpec
from criproxy.wire.errors import REASONS
from criproxy.wire.reading.calls import End
from docs.generate import audit, calls, commands, keys, metrics
from docs.generate.__main__ import DOCS, PAGES

RECORD_FIELDS = Path(__file__).parents[1] / "audit/record_fields.txt"


def text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_is_current(name: str) -> None:
    """A generated file is what `make docs-reference` would write."""
    assert text(name) == PAGES[name](), "run `make docs-reference` and commit the result"


@pytest.mark.parametrize(
    ("page", "key"),
    [
        *(("reference/configuration.md", key) for key in keys.names(Config)),
        *(("reference/rules.md", key) for key in keys.names(RuleSpec)),
    ],
)
def test_each_key_has_a_row(page: str, key: str) -> None:
    """Every key of the configuration and of rules has a row with a meaning."""
    assert re.search(rf"^\| `{re.escape(key)}` \|.*\| \S[^|]*\S \|$", text(page), re.MULTILINE)


@pytest.mark.parametrize("name", metrics.exported())
def test_each_metric_has_a_row(name: str) -> None:
    """Every metric of the registry has a row."""
    assert f"| `{name}` |" in text("reference/metrics.md")


@pytest.mark.parametrize(
    ("page", "word"),
    [
        *(("call-log", field.name) for field in msgspec.structs.fields(CallLine)),
        *(("call-log", word) for word in [*End, *calls.events()]),
        *(("metrics", word) for word in [*REASONS, *RULE_REASONS]),
        *(("cel", word) for word in VARIABLES),
    ],
)
def test_each_word_has_a_row(page: str, word: str) -> None:
    """Every field, end, event, reason and variable has a row."""
    assert f"| `{word}` |" in text(f"reference/{page}.md")


def test_variables_are_those_of_expressions() -> None:
    """The described variables are those that expressions may use."""
    assert set(VARIABLES) == set(VariableTypes("a", "b").variables())


def test_record_fields_are_those_of_records() -> None:
    """The described fields of audit records are those that records have."""
    listed = {
        line.split()[0]
        for line in RECORD_FIELDS.read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    }
    described = {
        name
        for heading, rows in audit.tables()
        if heading != "Dropped"
        for names, _ in rows
        for name in names
    }
    assert described - {"sequence", "previous"} == listed


@pytest.mark.parametrize("each", commands.described(), ids=lambda each: each.name)
def test_each_command_is_described(each: commands.Described) -> None:
    """Every command and option stands in the reference and in the manual."""
    reference, manual = text("reference/command-line.md"), text("man/criproxy.1")
    assert f"# `{each.name}`\n" in reference
    assert f"\n.B {each.name}\n" in manual
    for option, _ in each.options():
        name = option.split()[0].rstrip(",")
        assert re.search(rf"^\| (`|<code>){name}", reference, re.MULTILINE)
        assert "\\fB" + name.replace("-", "\\-") in manual


@pytest.mark.skipif(shutil.which("man") is None, reason="there is no man here")
def test_manual_is_formatted_without_a_warning() -> None:
    """groff, as man calls it, has nothing to say against the manual."""
    done = subprocess.run(
        ["man", "--warnings", "-l", str(DOCS / "man/criproxy.1")],
        capture_output=True,
        check=True,
        env=os.environ | {"MANPAGER": "cat", "LC_ALL": "C.UTF-8"},
        text=True,
    )
    assert done.stderr == ""
    assert "criproxy rules test [OPTIONS] FILE" in done.stdout


def test_manual_is_complete() -> None:
    """The manual has every section that section 1 of the manual wants."""
    found = re.findall(r"^\.SH (.*)$", text("man/criproxy.1"), re.MULTILINE)
    assert found == [
        *("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS", "FILES", "ENVIRONMENT"),
        *("SIGNALS", "EXIT STATUS", "SEE ALSO"),
    ]
