"""The captures of a running daemon."""

import os
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result

from criproxy.cassette.reader import CassetteReader, is_cassette
from criproxy.cassette.records import (
    AnyRecord,
    Began,
    CallBegan,
    CallEnded,
    ConnectionOpened,
    Ended,
    MessagePassed,
)
from criproxy.cli import cli
from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from tests.support.criproxy import Criproxy
from tests.support.process_tree import named
from tests.support.waiting import LIMIT_SECONDS, wait_until

SECRET = b"hunter2-is-the-password"


def capturing(directory: Path, runtime: str, **capture: Any) -> Criproxy:
    config = {
        "admin": {"socket": f"unix://{directory}/admin.sock"},
        "log": {"pods": True},
        "capture": {"directory": f"{directory}/captures", "after": "0s", "ring": "1MiB"} | capture,
    }
    return Criproxy(directory, runtime, config=config)


def cassettes(directory: Path) -> list[Path]:
    """The cassettes that are finished, oldest first."""
    begun = [each for each in sorted(directory.glob("*.cassette")) if is_cassette(each)]
    return [each for each in begun if any(isinstance(one, Ended) for one in records(each))]


def wait_for(directory: Path, count: int) -> Path:
    """Wait for so many cassettes; return the newest."""
    wait_until(lambda: len(cassettes(directory)) == count, f"{count} cassettes")
    return cassettes(directory)[-1]


def fail(client: CriClient) -> None:
    with pytest.raises(grpc.RpcError):
        client.ContainerStatus(container_id="f" * 64)


def records(path: Path) -> list[AnyRecord]:
    with CassetteReader(path) as reader:
        return list(reader)


def test_the_last_calls_are_written(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """A call that fails has all written that led to it, without secrets; what is kept of calls for
    other things, as the log's names, is as before. A command has it written, too. A capturer that
    has ended is started again, and a reload changes where and for which calls it writes."""
    directory, other = short_dir / "captures", short_dir / "other"
    triggers = [{"codes": ["NOT_FOUND"], "methods": ["ContainerStatus"]}]
    with (
        capturing(short_dir, runtime.endpoint, triggers=triggers, interval="0s") as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        metadata = {"name": "web", "namespace": "shop", "uid": "u"}
        pod = client.RunPodSandbox(config={"metadata": metadata}).pod_sandbox_id
        envs = [{"key": "PASSWORD", "value": SECRET}]
        config = {"metadata": {"name": "app"}, "envs": envs, "image": {"image": "app:1"}}
        client.PullImage(image=config["image"], auth={"password": "other"})
        client.CreateContainer(pod_sandbox_id=pod, config=config)
        assert not cassettes(directory)
        fail(client)
        first = wait_for(directory, 1)
        began, *found = records(first)
        assert isinstance(began, Began)
        assert began.trigger.startswith("ContainerStatus: NOT_FOUND after")
        (opened,) = [each for each in found if isinstance(each, ConnectionOpened)]
        assert opened.listener == proxy.endpoint
        messages = [each.data for each in found if isinstance(each, MessagePassed)]
        assert any(b"PASSWORD" in each for each in messages)
        assert not any(SECRET in each for each in messages)
        assert [each.code for each in found if isinstance(each, CallEnded)][-1] == "NOT_FOUND"
        assert first.stat().st_mode & 0o777 == 0o600
        assert directory.stat().st_mode & 0o777 == 0o700
        assert proxy.event("call", method="CreateContainer")["pod"] == "web"

        assert capture(proxy).stdout.strip() == str(wait_for(directory, 2))
        expected = {"trigger": 1, "command": 1}
        wait_until(lambda: begun(proxy) == expected, "the figures")
        assert proxy.metric("criproxy_capture_ring_bytes") > 0

        os.kill(named(proxy.process.pid, "criproxy:captur"), signal.SIGKILL)
        wait_until(lambda: proxy.events("process started", process="capturer"), "a new capturer")
        # Until the worker has its new channel, calls are not captured.
        wait_until(lambda: fail(client) or len(cassettes(directory)) > 2, "another cassette")
        again = [each for each in records(cassettes(directory)[2]) if isinstance(each, CallBegan)]
        assert {each.path.rpartition("/")[2] for each in again} == {"ContainerStatus"}

        configured = {"directory": str(other), "after": "0s", "ring": "1MiB"}
        proxy.reload(capture=configured | {"triggers": [{"namespaces": ["sh*"]}]})
        wait_until(lambda: proxy.events("configuration loaded"), "another configuration")
        with CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as second:
            fail(second)
            second.ListPodSandbox()
            second.StopPodSandbox(pod_sandbox_id=pod)
            (began, *_) = records(wait_for(other, 1))
        assert isinstance(began, Began)
        assert began.trigger.startswith("StopPodSandbox of shop/web: OK after ")

        proxy.reload(capture=None)
        wait_until(lambda: len(proxy.events("configuration loaded")) == 2, "no captures")
        assert "nothing is captured any more; set capture" in str(capture(proxy).exception)


def begun(proxy: Criproxy) -> dict[str, float]:
    """The cassettes that were begun, by what for."""
    name = "criproxy_capture_cassettes_total"
    return {each.labels["reason"]: each.value for each in proxy.metrics() if each.name == name}


def capture(proxy: Criproxy) -> Result:
    return CliRunner().invoke(cli, ["capture", "-c", str(proxy.file)])
