"""The cause of a slow pod on a real containerd: read from logs by ``pods`` and ``report``, told of
the running daemon by ``top`` and ``pods``, and in traces."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from criproxy.cli import cli
from criproxy.client import CriClient
from tests.e2e.slow_pull import SLOW
from tests.support.containerd import Containerd
from tests.support.criproxy import Criproxy
from tests.support.pods import Pods
from tests.support.trace_receiver import TraceReceiver, attributes
from tests.support.waiting import LIMIT_SECONDS, wait_until

pytestmark = pytest.mark.e2e


def starts(file: Path) -> list[dict[str, Any]]:
    result = CliRunner().invoke(cli, ["pods", str(file), "-o", "json"], catch_exceptions=False)
    assert (result.exit_code, result.stderr) == (0, "")
    return [json.loads(line) for line in result.stdout.splitlines()]


def report(file: Path) -> dict[str, Any]:
    result = CliRunner().invoke(cli, ["report", str(file), "-o", "json"], catch_exceptions=False)
    assert (result.exit_code, result.stderr) == (0, "")
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_pull_that_a_rule_slowed(runtime: Containerd, image: str, short_dir: Path) -> None:
    """Both logs and the trace name the pull as the cause; the call log and the trace also for how
    long the rule held it."""
    log, audit = short_dir / "criproxy.log", short_dir / "audit.jsonl"
    config = {
        "rules": [SLOW],
        "log": {"file": str(log), "pods": True},
        "audit": {"sinks": [{"file": {"path": str(audit)}}]},
    }
    with (
        TraceReceiver() as receiver,
        Criproxy(
            short_dir,
            runtime.endpoint,
            config=config | {"traces": {"otlp": {"endpoint": receiver.url}}},
        ) as proxy,
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
        (reported,) = report(file)["pod_starts"]["slowest"]
        assert reported["cause"]["kind"] == "pull"
        assert reported["cause"]["subject"] == image
        assert reported["seconds"] == pytest.approx(start["seconds"], abs=1e-5)
    (from_log,) = starts(log)
    assert "held by slow-pull)" in from_log["cause"]["text"]
    slowest = report(log)["slowest"][0]
    assert (slowest["method"], slowest["rules"]) == ("PullImage", ["slow-pull"])
    (start_span,) = receiver.named("pod start")
    cause = attributes(start_span)["criproxy.pod_start.cause.text"]
    assert cause == from_log["cause"]["text"]
    (pull,) = receiver.named("/PullImage")
    assert (pull.trace_id, pull.parent_span_id) == (start_span.trace_id, start_span.span_id)
    assert attributes(pull)["criproxy.rules"] == ["slow-pull"]


def test_a_pull_that_a_rule_slows_now(runtime: Containerd, image: str, short_dir: Path) -> None:
    """``top`` shows the pull that a rule holds as its pod's phase and cause; ``pods`` the start."""
    held = SLOW | {"delay": {"fixed": "1h"}}
    config = {
        "admin": {"socket": f"unix://{short_dir}/admin.sock"},
        "rules": [held],
        "slow": {"methods": {"PullImage": "1ms"}},
    }
    with (
        Criproxy(short_dir, runtime.endpoint, config=config) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
        Pods(runtime) as pods,
    ):
        pod = pods.pod(client, "slow")
        metadata = {"name": "slow", "uid": "uid-slow", "namespace": "e2e"}
        pull = {"image": {"image": image}, "sandbox_config": {"metadata": metadata}}
        call = client.raw("PullImage").future(client.messages.PullImageRequest(**pull))
        found = wait_until(lambda: _holding(proxy), "the held pull")
        (in_flight,) = found["calls"]
        assert (in_flight["pod"], in_flight["image"], in_flight["slow"]) == ("slow", image, True)
        (start,) = found["pods"]
        assert (start["pod"], start["pod_id"], start["state"]) == ("slow", pod, "running")
        assert (start["phase"]["kind"], start["phase"]["subject"]) == ("pull", image)
        *_, last = _top(proxy).splitlines()
        assert "e2e/slow  running" in last
        assert last.endswith(f"  image pull of {image}")
        call.cancel()
        proxy.reload(rules=[])
        wait_until(lambda: proxy.events("rules loaded"), "rules without the delay")
        client.PullImage(**pull)
        pods.start(client, pod, image={"image": image})
        (start,) = wait_until(lambda: _started(proxy), "the start")
        assert start["pod"] == "slow"
        calls = [(each["kind"], each["code"]) for each in start["phases"] if "method" in each]
        assert calls == [
            ("sandbox", "OK"),
            ("pull", "CANCELLED"),
            ("pull", "OK"),
            ("create", "OK"),
            ("start", "OK"),
        ]


def _started(proxy: Criproxy) -> list[dict[str, Any]]:
    """Return the pods that have started, as the daemon tells."""
    result = CliRunner().invoke(cli, ["pods", "-c", str(proxy.file), "-o", "json"])
    starts = [json.loads(line) for line in result.stdout.splitlines()]
    return [start for start in starts if start["state"] == "started"]


def _top(proxy: Criproxy, *options: str) -> str:
    arguments = ["top", "-c", str(proxy.file), "--once", *options]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def _holding(proxy: Criproxy) -> Any:
    """Return what ``top`` tells once the pull is held, and its pod's cause, by now."""
    found = json.loads(_top(proxy, "-o", "json"))
    causes = [pod["cause"] for pod in found["pods"]]
    # The cause of a start that goes on is the call in flight, however long the sandbox took.
    held = any(
        cause["kind"] == "pull" and "held by slow-pull)" in cause["text"] for cause in causes
    )
    return found if held else None
