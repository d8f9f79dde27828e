"""The cause of a slow pod on a real containerd, as ``criproxy pods`` reads it from either log."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from criproxy.cli import cli
from criproxy.client import CriClient
from tests.support import registry
from tests.support.containerd import Containerd
from tests.support.criproxy import Criproxy
from tests.support.pods import Pods
from tests.support.registry import Registry
from tests.support.requirements import require
from tests.support.waiting import LIMIT_SECONDS

pytestmark = pytest.mark.e2e

SLOW = {
    "name": "slow-pull",
    "match": {"methods": ["PullImage"]},
    # Much longer than a sandbox takes beside busy loops.
    "delay": {"fixed": "8s"},
}


@pytest.fixture
def image(runtime: Containerd, short_dir: Path) -> Iterator[str]:
    """The name of an image that the runtime has yet to pull."""
    require(registry.missing())
    with Registry(short_dir / "registry") as source:
        source.push(runtime, "library/slow:1")
        yield f"{source.host}/library/slow:1"


def starts(file: Path) -> list[dict[str, Any]]:
    result = CliRunner().invoke(cli, ["pods", str(file), "-o", "json"], catch_exceptions=False)
    assert (result.exit_code, result.stderr) == (0, "")
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_pull_that_a_rule_slowed(runtime: Containerd, image: str, short_dir: Path) -> None:
    """Both logs name the pull as the cause; the call log also for how long the rule held it."""
    log, audit = short_dir / "criproxy.log", short_dir / "audit.jsonl"
    config = {
        "rules": [SLOW],
        "log": {"file": str(log), "pods": True},
        "audit": {"sinks": [{"file": {"path": str(audit)}}]},
    }
    with (
        Criproxy(short_dir, runtime.endpoint, config=config) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
        Pods(runtime) as pods,
    ):
        pod = pods.pod(client, "slow")
        sandbox_config = {
            "metadata": {"name": "slow", "uid": "uid-slow", "namespace": "e2e"},
        }
        client.PullImage(image={"image": image}, sandbox_config=sandbox_config)
        pods.start(client, pod, image={"image": image})
        pods.start(client, pod, "second")
        assert proxy.stop() == 0
    for file in (log, audit):
        (start,) = starts(file)
        assert (start["namespace"], start["pod"], start["pod_id"]) == ("e2e", "slow", pod)
        assert (start["cause"]["kind"], start["cause"]["subject"]) == ("pull", image)
        assert start["cause"]["text"].startswith(f"image pull of {image}: ")
        calls = [each for each in start["phases"] if "method" in each]
        assert [(each["kind"], each["code"]) for each in calls] == [
            ("sandbox", "OK"),
            ("pull", "OK"),
            *(("create", "OK"), ("start", "OK")) * 2,
        ]
        assert [each["subject"] for each in calls[2:]] == ["main", "main", "second", "second"]
        assert start["state"] == "started"
    (from_log,) = starts(log)
    assert "held by slow-pull)" in from_log["cause"]["text"]
