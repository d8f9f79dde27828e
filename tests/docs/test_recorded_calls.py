"""The rules that are shown, on the recorded calls of a kubelet."""

from pathlib import Path

import pytest

from criproxy.cli.rules_test.recording import HEADER, summarize
from criproxy.config.load import load_rules
from criproxy.config.rule_compilation import compiled
from criproxy.errors import UsageError
from tests.docs.pages import ROOT
from tests.docs.test_examples import RULES, blocks
from tests.support.captures import DIRECTORY

KUBELET = DIRECTORY / "kubelet-01.bin.gz"


def table(rules: Path, recording: Path = KUBELET) -> dict[str, tuple[str, ...]]:
    """Return the rows of rules by their names."""
    ruleset, _ = compiled(load_rules(rules))
    return {name: row for name, *row in summarize(ruleset, recording)}  # type: ignore[misc]


@pytest.mark.parametrize(
    ("registry", "denied"), [("registry.k8s.io", "1"), ("127.0.0.1:5999", "4"), ("x.corp", "5")]
)
def test_images_are_denied_by_their_registry(tmp_path: Path, registry: str, denied: str) -> None:
    """``only-signed`` denies a kubelet's containers by the registry of their image, not its id."""
    file = tmp_path / "rules.yaml"
    file.write_text(RULES.replace("registry.corp", registry))
    assert table(file)["only-signed"] == ["deny", "5", denied, denied, "0", "0"]


def test_rules_of_deploy() -> None:
    """No rule of the example fails on a kubelet's calls, and two refuse any of them."""
    rows = table(ROOT / "deploy/rules.example.yaml")
    assert {name for name, row in rows.items() if row[-1] not in ("0", "FAILED")} == set()
    assert {name for name, row in rows.items() if row[3] not in ("0", "DENIED")} == {
        "only-signed",
        "no-host-network",
    }


def test_table_that_is_shown(tmp_path: Path) -> None:
    """The table of the how-to is that of its rules."""
    file = tmp_path / "rules.yaml"
    file.write_text(RULES)
    shown = next(each.text for each in blocks("console") if "--recording" in each.text)
    lines = [tuple(line.split()) for line in shown.splitlines()[1:]]
    assert lines == [(name, *row) for name, row in table(file).items()]
    assert lines[0] == HEADER


@pytest.mark.parametrize("data", [b"x", b"\x04" + bytes(12), b"\0" * 9 + b"\5\0\0\0x", b"\x1f\x8b"])
def test_no_recording(tmp_path: Path, data: bytes) -> None:
    """A file that is no recording is an error that names it."""
    file = tmp_path / "r.bin"
    file.write_bytes(data)
    with pytest.raises(UsageError, match=r"r\.bin: "):
        table(ROOT / "deploy/rules.example.yaml", file)
