"""System calls that do less than they were asked to, and a system's clock that is set."""

import json
import os
import signal
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from tests.support.cri_peers import CallSpec, CriPeer, execute, start_call, stream
from tests.support.criproxy import Criproxy
from tests.support.grpc_peers import Started, channel
from tests.support.process_tree import named
from tests.support.set_clock import SetClock
from tests.support.short_transfers import short_transfers
from tests.support.waiting import LIMIT_SECONDS, wait_until

HOOK = """
def request(call):
    call.message.verbose = True
"""


def audit(directory: Path) -> dict[str, Any]:
    """An audit log of all calls that loses none."""
    sink = {"file": {"path": str(directory / "audit.jsonl")}, "on_full": "block"}
    return {"policy": [{"level": "RequestResponse"}], "sinks": [sink]}


def recorded(directory: Path) -> list[dict[str, Any]]:
    """The audit log's records of calls that have ended."""
    records = [json.loads(each) for each in (directory / "audit.jsonl").read_text().splitlines()]
    return [each for each in records if each.get("stage") == "ResponseComplete"]


def test_short_transfers(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """With short reads and writes on every socket no call, record or line is lost: the messages
    between the processes, those of hooks and the pages are whole."""
    (short_dir / "hook.py").write_text(HOOK)
    hook = {
        "name": "verbose",
        "match": {"methods": ["Status"]},
        "hook": {"script": str(short_dir / "hook.py"), "timeout": f"{LIMIT_SECONDS:g}s"},
    }
    config = {"audit": audit(short_dir), "rules": [hook]}
    with Criproxy(
        short_dir, runtime.endpoint, config=config, env=short_transfers(short_dir)
    ) as proxy:
        for streams in (100, 200):  # the second by workers that a reload has started
            with CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client:
                for _ in range(10):
                    assert client.Status().info  # of a verbose request
                    assert len(client.ListPodSandbox().items) == 2
            assert proxy.counted()["runtime.v1.RuntimeService", "Status", "OK"] == streams // 10
            if streams == 100:
                proxy.reload(limits={"streams": 200})
                proxy.event("configuration loaded")
        assert proxy.stop() == 0
    assert len(proxy.calls()) == len(recorded(short_dir)) == 40


@pytest.mark.parametrize("jump", [3600, -3600])
def test_clock_that_is_set(short_dir: Path, jump: int) -> None:
    """When the system's clock is set, times follow it, and nothing ends or waits for it: neither
    calls in flight and in a delay, nor a worker's restart, nor a drain."""
    clock = SetClock(short_dir)
    delay = {"name": "late", "match": {"methods": ["StreamContainers"]}, "delay": {"fixed": "1s"}}
    patience = f"{LIMIT_SECONDS:g}s"
    config = {
        "audit": audit(short_dir),
        "rules": [delay],
        "limits": {"drain_timeout": patience, "held_time": patience},
    }
    with (
        CriPeer(short_dir / "cri.sock") as runtime,
        Criproxy(short_dir, f"unix://{runtime.path}", config=config, env=clock.env) as proxy,
        channel(proxy.path) as one,
    ):
        before = datetime.now().timestamp()

        def begin(*calls: CallSpec) -> list[Started]:
            runtime.gate.clear()
            begun = [start_call(one, call) for call in calls]
            wait_until(lambda: proxy.metric("criproxy_calls_in_flight") == len(calls), "calls")
            return begun

        def end(begun: list[Started]) -> None:
            runtime.gate.set()
            assert [call.outcome().code for call in begun] == [grpc.StatusCode.OK] * len(begun)

        calls = begin(execute("a"), stream("b"))  # one waits for the runtime, one for the rule
        clock.set(jump)
        end(calls)
        os.kill(named(proxy.process.pid, "criproxy:audit"), signal.SIGKILL)  # it is started anew
        end(begin(stream("c")))
        calls = begin(execute("d"))
        proxy.reload(limits=config["limits"] | {"streams": 200})  # the worker drains
        proxy.event("configuration loaded")
        clock.set(-jump)
        end(calls)
        assert proxy.stop() == 0
    logged = proxy.calls()
    assert Counter(call["code"] for call in logged) == {"OK": 4}
    times = [(each["timestamp"], each["duration_s"]) for each in logged]
    times += [(each["stageTimestamp"], each["durationSeconds"]) for each in recorded(short_dir)]
    at = [datetime.fromisoformat(each).timestamp() - before for each, _ in times]
    assert [round(each / jump) for each in at] == [1, 1, 1, -1] * 2
    assert all(0 <= duration < LIMIT_SECONDS for _, duration in times)
    assert not proxy.events("worker stalled")
