"""Every rule of deploy/rules.example.yaml has the effect that its comment describes."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from criproxy.cli import rules
from criproxy.rules.spec import ACTIONS
from tests.support.waiting import LIMIT_SECONDS

EXAMPLE = Path(__file__).parents[2] / "deploy/rules.example.yaml"
RULES = {rule["name"]: rule for rule in yaml.safe_load(EXAMPLE.read_text())}

CHAOS = {"pod": {"namespace": "chaos"}}
CRICTL = {"caller": {"uid": 1000, "executable": "/usr/local/bin/crictl"}}


def image(name: str) -> dict[str, Any]:
    return {"request": {"config": {"image": {"image": name}}}}


POD = {
    "metadata": {"name": "web-0", "namespace": "shop"},
    "annotations": {"corp.example/debug": "yes", "other": "stays"},
}
HOST_NETWORK = {"security_context": {"namespace_options": {"network": "NODE"}}}
STREAM = {"response": [{"containers": [{"id": "a"}]}, {"containers": [{"id": "b"}]}, {}]}
EVENTS = [{"container_event_type": f"CONTAINER_{kind}_EVENT"} for kind in ("CREATED", "STOPPED")]

CASES: list[tuple[str, str, dict[str, Any], list[str]]] = [
    (
        *("mirror-docker-hub", "PullImage", {"request": {"image": {"image": "docker.io/a:1"}}}),
        ["-  image: docker.io/a:1", "+  image: mirror.local/hub/library/a:1"],
    ),
    (
        *("team-label", "RunPodSandbox", {"request": {"config": POD}}),
        ["+    team: blue-shop", "-    corp.example/debug: 'yes'", "+    - corp.example"],
    ),
    (
        *("hide-scanner", "ContainerStatus"),
        {"response": {"status": {"annotations": {"corp.example/scan": "clean", "other": "x"}}}},
        ["-    corp.example/scan: clean"],
    ),
    ("trace-header", "Version", CRICTL, ["+ metadata x-cri-client: crictl of uid 1000"]),
    (
        *("mirror-quay", "CreateContainer", image("quay.io/a/b:1")),
        ["-    image: quay.io/a/b:1", "+    image: mirror.local/quay/a/b:1"],
    ),
    (
        *("mirror-quay", "ListImages"),
        {"response": {"images": [{"id": "x", "repo_tags": ["mirror.local/quay/a/b:1"]}]}},
        ["-  - mirror.local/quay/a/b:1", "+  - quay.io/a/b:1"],
    ),
    ("slow-pulls", "PullImage", {}, ["delay: 2s ± 0.5s, before, 10 % of calls"]),
    ("slow-status", "ContainerStatus", {}, ["delay: p50 0.01s, p99 2s, after"]),
    (
        *("flaky-start", "StartContainer", CHAOS | {"response": {}}),
        ["5 % of calls, 20 times, for 600s", "answer UNAVAILABLE: injected (the runtime is asked)"],
    ),
    (
        *("hung-exec", "ExecSync", {"request": {"cmd": ["/bin/hang"]}}),
        ["answer none: it hangs until its deadline, or until the client goes"],
    ),
    (
        *("cut-stream", "StreamContainers", STREAM | {"caller": {"uid": 1000}}),
        ["2 of 3 response messages reach the client", "answer UNAVAILABLE: cut"],
    ),
    (
        *("lost-events", "GetContainerEvents", {"response": EVENTS}),
        ["1 of 2 response messages reach the client"],
    ),
    (
        "namespace-label",
        "CreateContainer",
        {"request": {"sandbox_config": {"metadata": {"namespace": "shop"}}}},
        ["+    example.com/namespace: shop"],
    ),
    (
        "namespace-label",
        "CreateContainer",
        {"request": {"config": {"linux": {"security_context": {"privileged": True}}}}},
        ["answer PERMISSION_DENIED: no privileged containers in namespace"],
    ),
    (
        *("only-signed", "CreateContainer", image("docker.io/a")),
        ["only-signed        would act: deny: PERMISSION_DENIED"],
    ),
    (
        *(
            "no-host-network",
            "RunPodSandbox",
            {"request": {"config": POD | {"linux": HOST_NETWORK}}},
        ),
        ["answer PERMISSION_DENIED: host network is for kube-system (the runtime is not asked)"],
    ),
    ("few-removals", "RemoveContainer", {}, ["limit: 3 in flight per caller"]),
]


@pytest.fixture(autouse=True)
def _patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have hooks answer when they can, however slow the machine is."""
    patient = re.sub(r"timeout: \d+s", f"timeout: {LIMIT_SECONDS:g}s", EXAMPLE.read_text())
    (tmp_path / "rules.yaml").write_text(patient)
    (tmp_path / "hooks").symlink_to(EXAMPLE.parent / "hooks")
    monkeypatch.chdir(tmp_path)


def run(name: str, call: dict[str, Any], *options: str) -> tuple[int, str]:
    arguments = ["test", "rules.yaml", "--call", "-", *options]
    result = CliRunner().invoke(rules.command, arguments, input=yaml.safe_dump(call))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    line = next(each for each in result.output.splitlines() if each.startswith(f"  {name} "))
    assert "  acts: " in line or "  would act: " in line or "  fails: " in line, line
    return result.exit_code, result.output


@pytest.mark.parametrize(("name", "method", "call", "expected"), CASES)
def test_rule(name: str, method: str, call: dict[str, Any], expected: list[str]) -> None:
    """The rule acts on a call that is meant for it, with the effect that it promises."""
    status, output = run(name, {"method": method} | call, "--run-hooks")
    assert status == 0, output
    for text in expected:
        assert text in output


def test_webhook_that_is_not_there() -> None:
    """The webhook is there to refuse calls: as long as it does not answer, they fail."""
    call = {"method": "CreateContainer", "pod": {"namespace": "untrusted"}}
    status, output = run("ask-the-scanner", call, "--run-hooks")
    assert status == 1
    assert "answer INTERNAL: criproxy: rule ask-the-scanner: " in output


def test_every_rule_is_tried() -> None:
    """No rule of the file is left out here, and no action is left out of the file."""
    assert {name for name, *_ in CASES} | {"ask-the-scanner"} == set(RULES)
    assert {action for rule in RULES.values() for action in ACTIONS if action in rule} == {*ACTIONS}


def test_check() -> None:
    """``rules check`` has a line for each, and is content."""
    result = CliRunner().invoke(rules.command, ["check", str(EXAMPLE)])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == [*RULES]
    assert lines[-1] == f"OK: {len(RULES)} rules"
