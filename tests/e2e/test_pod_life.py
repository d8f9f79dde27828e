"""The whole life of a pod on a real containerd, directly and through criproxy."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.message import Message

from tests.e2e.pod_life import Pod, live, log_lines
from tests.e2e.recorder import Recorder
from tests.support.containerd import Containerd
from tests.support.criproxy import Criproxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e


@pytest.fixture
def proxy(runtime: Containerd, short_dir: Path) -> Iterator[Criproxy]:
    with Criproxy(short_dir, runtime.endpoint) as proxy:
        yield proxy


@pytest.fixture
def pod(runtime: Containerd, short_dir: Path) -> Pod:
    logs = short_dir / "logs"
    logs.mkdir()
    return Pod("web", logs, runtime.cgroup_parent)


def test_answers_are_those_of_the_runtime(
    runtime: Containerd, proxy: Criproxy, pod: Pod, version: str
) -> None:
    """Every call of a pod's life, errors included, is answered through the proxy as without it."""
    transcripts, logs = [], []
    for endpoint in (runtime.endpoint, proxy.endpoint):
        with Recorder(endpoint, version) as client:
            live(client, pod)
            transcripts.append(client.transcript())
        logs.append(log_lines(pod))
        pod.log_file.unlink()
    direct, proxied = transcripts
    for number, (expected, got) in enumerate(zip(direct, proxied, strict=True)):
        assert got == expected, f"call {number}"
    assert logs[0] == logs[1]


def test_log_and_metrics_tell_what_was_done(proxy: Criproxy, pod: Pod, version: str) -> None:
    """The call log and the metrics have each call, its code, its sizes: no more and no less."""
    with Recorder(proxy.endpoint, version) as client:
        live(client, pod)
    done = client.counts()
    assert {code for _, _, code in done} == {"OK", "NOT_FOUND", "UNKNOWN", "DEADLINE_EXCEEDED"}
    wait_until(lambda: proxy.counted().total() >= done.total(), "every call counted")
    assert proxy.counted() == done
    assert proxy.metric("criproxy_calls_in_flight") == 0
    assert proxy.metric("criproxy_call_duration_seconds_count") == done.total()
    assert proxy.stop() == 0
    assert proxy.logged_counts() == done
    told = [(call["method"], call["code"], call.get("message", "")) for call in proxy.calls()]
    made = [(m.method, m.code, "" if m.code == "OK" else m.answer) for m in client.made]
    assert told == made
    for line, each in zip(proxy.calls(), client.made, strict=True):
        assert line["listener"] == proxy.endpoint
        assert (line["pid"], line["uid"]) == (os.getpid(), os.getuid())
        assert line["executable"] == str(Path("/proc/self/exe").readlink())
        assert (line["api_version"], line["request_messages"]) == (version, 1)
        if isinstance(each.answer, Message):
            assert (line["response_messages"], line["response_bytes"]) == (
                1,
                each.answer.ByteSize(),
            )
