"""The documented rules and audit policies, applied to the recorded calls of a kubelet."""

from pathlib import Path

import pytest

from criproxy.audit.spec import AuditSpec, SinkSpec, StdoutSpec
from criproxy.cli.rules_test.recording import HEADER, read_recording, summarize, summarize_audit
from criproxy.config.load import load_rules
from criproxy.config.rule_compilation import compiled
from criproxy.errors import UsageError
from criproxy.rules.spec import RuleSpec
from docs.generate import pages, recorded_calls
from tests.docs.test_examples import RULES
from tests.support.captures import DIRECTORY, NAMES

KUBELET = DIRECTORY / "kubelet-01.bin.gz"


def table(rules: Path, recording: Path = KUBELET) -> dict[str, tuple[str, ...]]:
    """Return the rows of rules by their names."""
    ruleset, _ = compiled(load_rules(rules))
    return {name: row for name, *row in summarize(ruleset, read_recording(recording))}  # type: ignore[misc]


@pytest.mark.parametrize(
    ("registry", "denied"), [("registry.k8s.io", "1"), ("127.0.0.1:5999", "4"), ("x.corp", "5")]
)
def test_images_are_denied_by_their_registry(tmp_path: Path, registry: str, denied: str) -> None:
    """``only-signed`` denies a kubelet's containers by the registry of their image, not its id."""
    file = tmp_path / "rules.yaml"
    file.write_text(RULES.replace("registry.corp", registry))
    assert table(file)["only-signed"] == ["deny", "5", denied, denied, "0", "0"]


RULE_ON_RECORDING = [
    pytest.param(spec, recording, id=f"{file}-{spec.name}-{recording}")
    for file, specs in pages.rules().items()
    for spec in specs
    for recording in recorded_calls.recordings()
]


@pytest.mark.parametrize(("spec", "name"), RULE_ON_RECORDING)
def test_rules_that_are_shown(spec: RuleSpec, name: str) -> None:
    """No rule that is shown fails on a recorded call, nor denies one of a kubelet, unless the page
    of recorded calls names it as one that is there to deny."""
    counts = recorded_calls.counts_of(spec, recorded_calls.recordings()[name])
    assert counts["FAILED"] == 0
    if spec.name not in recorded_calls.DENIES_THE_KUBELET and name.startswith("kubelet-"):
        assert counts["DENIED"] == 0


def test_rules_that_are_there_to_deny() -> None:
    """Each rule that the page names as one that denies does so; all of them are denials, and in
    deploy/ and config.example.yaml, from where rules are copied, at most one is in force."""
    shown = [(file, spec) for file, specs in pages.rules().items() for spec in specs]
    denying = {
        spec.name
        for _, spec in shown
        if any(
            recorded_calls.counts_of(spec, recording)["DENIED"]
            for name, recording in recorded_calls.recordings().items()
            if name.startswith("kubelet-")
        )
    }
    assert denying == set(recorded_calls.DENIES_THE_KUBELET)
    assert all(spec.deny is not None for _, spec in shown if spec.name in denying)
    enforced = {
        spec.name
        for file, spec in shown
        if spec.name in denying and spec.mode == "enforce" and not file.startswith("docs/")
    }
    assert enforced == {"no-host-network"}


def test_every_page_with_rules() -> None:
    """All pages, and the files beside them, are searched for rules and policies."""
    assert {path.removeprefix("docs/") for path in pages.rules()} == {
        *("how-to/hooks.md", "how-to/inject-faults.md", "how-to/write-rules.md"),
        *("tutorial/first-rule.md", "config.example.yaml", "deploy/rules.example.yaml"),
    }
    assert [path.removeprefix("docs/") for path, _ in pages.audit_policies()] == [
        *("how-to/audit.md", "reference/audit-policy.md", "config.example.yaml"),
    ]


def test_every_recording() -> None:
    """All recordings with calls of the CRI are on the page, the others have none."""
    assert {*recorded_calls.recordings()} == {
        name for name in NAMES if read_recording(DIRECTORY / f"{name}.bin.gz").calls
    }


@pytest.mark.parametrize("file", [file for file, _ in pages.audit_policies()])
def test_probes_in_audit_policies(file: str) -> None:
    """Of a kubelet's recorded ExecSync, a policy that is shown records the one that failed, and of
    a person's all; every way into a container that kubectl takes is recorded."""
    spec = AuditSpec(
        policy=dict(pages.audit_policies())[file], sinks=[SinkSpec(stdout=StdoutSpec())]
    )
    rows = {name: row for name, *row in summarize_audit(spec, read_recording(KUBELET))}
    assert rows["METHOD"] == ["CALLS", "NONE", "METADATA", "REQUEST", "REQUESTRESPONSE"]
    assert rows["ExecSync"] == ["8", "7", "0", "1", "0"]
    assert rows["Exec"] == ["2", "0", "0", "2", "0"]
    assert rows["Attach"] == rows["PortForward"] == ["1", "0", "0", "1", "0"]
    assert rows["StopContainer"] == ["2", "0", "2", "0", "0"]
    crictl = recorded_calls.recordings()["crictl-10"]
    rows = {name: row for name, *row in summarize_audit(spec, crictl)}
    assert rows["ExecSync"] == ["1", "0", "0", "1", "0"]


def test_table_that_is_shown(tmp_path: Path) -> None:
    """The table of the how-to is that of its rules."""
    file = tmp_path / "rules.yaml"
    file.write_text(RULES)
    shown = next(each.text for each in pages.blocks("console") if "rules.yaml --rec" in each.text)
    lines = [tuple(line.split()) for line in shown.splitlines()[1:]]
    assert lines == [(name, *row) for name, row in table(file).items()]
    assert lines[0] == HEADER


@pytest.mark.parametrize("data", [b"x", b"\x04" + bytes(12), b"\0" * 9 + b"\5\0\0\0x", b"\x1f\x8b"])
def test_no_recording(tmp_path: Path, data: bytes) -> None:
    """A file that is no recording is an error that names it."""
    file = tmp_path / "r.bin"
    file.write_bytes(data)
    with pytest.raises(UsageError, match=r"r\.bin: "):
        read_recording(file)
