"""The example rules, all of them at once, on a real containerd."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.pod_life import Pod, live, log_lines
from tests.e2e.recorder import Recorder
from tests.support.containerd import Containerd
from tests.support.criproxy import Criproxy

pytestmark = pytest.mark.e2e

DEPLOY = Path(__file__).parents[2] / "deploy"

ADDED = {"team": "blue-e2e", "example.com/namespace": "e2e"}
"""The labels that the examples add to pods and containers, and nothing else that a client sees."""


def test_pod_lives_as_without_rules(runtime: Containerd, short_dir: Path, version: str) -> None:
    """The calls of a pod that no example denies succeed as without them, apart from added labels.

    This includes a rule in dry-run that matches.
    """
    shutil.copytree(DEPLOY / "hooks", short_dir / "hooks")
    (short_dir / "rules").mkdir()
    shutil.copy(DEPLOY / "rules.example.yaml", short_dir / "rules")
    (short_dir / "logs").mkdir()
    pod = Pod("web", short_dir / "logs", runtime.cgroup_parent)
    transcripts, logs = [], []
    config = {"rules_dir": "rules"}
    with Criproxy(short_dir, runtime.endpoint, config=config) as proxy:
        for endpoint in (runtime.endpoint, proxy.endpoint):
            with Recorder(endpoint, version) as client:
                live(client, pod)
                transcripts.append(client.transcript())
            logs.append(log_lines(pod))
            pod.log_file.unlink()
        failed = [each for each in proxy.metrics() if each.name == "criproxy_rule_errors_total"]
        # The pod's life has a container in a pod that is not there.
        assert [(each.labels["reason"], each.value) for each in failed] == [("unknown_pod", 1)]
        for name, mode in (("team-label", "enforce"), ("only-signed", "dry-run")):
            assert proxy.metric("criproxy_rule_matches_total", rule=name, mode=mode) > 0
    direct, proxied = transcripts
    for number, (expected, got) in enumerate(zip(direct, proxied, strict=True)):
        assert _without(got) == _without(expected), f"call {number}"
    assert all(f"'{key}': '{value}'" in repr(proxied) for key, value in ADDED.items())
    assert logs[0] == logs[1]


def _without(answer: Any) -> Any:
    """Leave out of an answer the labels that the rules add."""
    match answer:
        case dict():
            left = {key: _without(value) for key, value in answer.items() if key not in ADDED}
            return {key: value for key, value in left.items() if value != {}}
        case list() | tuple():
            return [_without(each) for each in answer]
    return answer
