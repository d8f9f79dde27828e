"""Separate workers for restricted listeners: failures of one do not affect the others."""

import json
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from tests.support.criproxy import Criproxy
from tests.support.grpc_peers import code_of
from tests.support.process_tree import descendants, is_alive, named
from tests.support.waiting import LIMIT_SECONDS, wait_until

FULL, SCOPED = "criproxy:full", "criproxy:scoped"


def listeners(directory: Path, runtime: EmbeddedRuntime) -> list[dict[str, Any]]:
    return [
        {"endpoint": f"unix://{directory}/proxy.sock", "runtime": runtime.endpoint},
        {"endpoint": f"unix://{directory}/second.sock", "runtime": runtime.endpoint},
        {
            "endpoint": f"unix://{directory}/scoped.sock",
            "runtime": runtime.endpoint,
            "profile": "read-only",
        },
    ]


@pytest.fixture
def two(runtime: EmbeddedRuntime, short_dir: Path) -> Iterator[Criproxy]:
    """A proxy with two full listeners and a scoped one."""
    with Criproxy(short_dir, config={"listeners": listeners(short_dir, runtime)}) as proxy:
        yield proxy


@pytest.fixture
def scoped(two: Criproxy, short_dir: Path) -> str:
    """The endpoint of the scoped listener."""
    return f"unix://{short_dir}/scoped.sock"


def test_listeners_without_restrictions_share_a_worker(two: Criproxy) -> None:
    """The full listeners have one worker, the one with a profile has its own."""
    names = sorted(descendants(two.process.pid).values())
    assert names == [FULL, SCOPED, "criproxy:spawn"]


def test_one_worker_for_all(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """With isolation none a single worker serves all listeners, profiles included."""
    config = {"listeners": listeners(short_dir, runtime), "workers": {"isolation": "none"}}
    with Criproxy(short_dir, config=config) as proxy:
        names = sorted(descendants(proxy.process.pid).values())
        assert names == ["criproxy:all", "criproxy:spawn"]
        with CriClient(f"unix://{short_dir}/scoped.sock") as client:
            assert client.Version().runtime_name
            with pytest.raises(grpc.RpcError) as error:
                client.call("RemoveImage", image={"image": "x"})
        assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_limits_of_a_worker(two: Criproxy) -> None:
    """A scoped worker is the last to be given CPU time, and the first to be ended when memory is
    short."""
    scoped, full = (named(two.process.pid, name) for name in (SCOPED, FULL))

    def score(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    assert score(scoped) == 500
    assert score(full) < 500
    assert os.getpriority(os.PRIO_PROCESS, scoped) == 5
    assert os.getpriority(os.PRIO_PROCESS, full) == os.getpriority(os.PRIO_PROCESS, 0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_worker_that_dies(two: Criproxy, scoped: str, number: signal.Signals) -> None:
    """The worker of a scoped listener is started anew; no call of the full one fails."""
    with CriClient(two.endpoint) as client, CriClient(scoped) as other:
        client.Version()
        other.Version()
        pid, full = named(two.process.pid, SCOPED), named(two.process.pid, FULL)
        os.kill(pid, number)
        two.event("worker started", worker="scoped")
        for _ in range(20):
            client.Version()
        wait_until(lambda: bool(_answers(other)), "an answer at the scoped listener")
        assert named(two.process.pid, FULL) == full
        assert named(two.process.pid, SCOPED) != pid
    assert two.event("worker ended")["how"] == number.name
    assert two.metric("criproxy_worker_restarts_total", worker="scoped") == 1
    assert two.metric("criproxy_worker_up", worker="scoped") == 1


def test_no_counter_goes_down(two: Criproxy, scoped: str) -> None:
    """What was scraped of a worker's counters stays in the sum after its end."""
    with CriClient(scoped) as client:
        for _ in range(5):
            client.Version()
    assert two.metric("criproxy_calls_total", method="Version", listener=scoped) == 5
    os.kill(named(two.process.pid, SCOPED), signal.SIGKILL)
    two.event("worker started", worker="scoped")
    counted = two.metric("criproxy_calls_total", method="Version", listener=scoped)
    assert counted == 5
    with CriClient(scoped) as client:
        client.Version()
    after = two.metric("criproxy_calls_total", method="Version", listener=scoped)
    assert after == counted + 1


def test_a_worker_that_stands_still(two: Criproxy, scoped: str) -> None:
    """A stopped worker delays no other, and is reported."""
    pid = named(two.process.pid, SCOPED)
    with CriClient(two.endpoint) as client:
        os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(20):
                client.Version()
            two.event("worker stalled", worker="scoped")
            assert two.metric("criproxy_worker_up", worker="scoped") == 0
            assert two.metric("criproxy_worker_up", worker="full") == 1
            client.Version()
        finally:
            os.kill(pid, signal.SIGCONT)
    with CriClient(scoped) as client:
        assert client.Version().runtime_name


def test_a_worker_that_stands_still_for_too_long(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """Beyond stall_limit it is killed, and another one serves."""
    config = {"listeners": listeners(short_dir, runtime), "workers": {"stall_limit": "3s"}}
    with Criproxy(short_dir, config=config) as proxy:
        pid = named(proxy.process.pid, SCOPED)
        os.kill(pid, signal.SIGSTOP)
        proxy.event("worker killed: stalled", worker="scoped")
        proxy.event("worker started", worker="scoped")
        with CriClient(f"unix://{short_dir}/scoped.sock") as client:
            wait_until(lambda: bool(_answers(client)), "an answer of the new worker")


def test_a_supervisor_that_dies(two: Criproxy, runtime: EmbeddedRuntime) -> None:
    """Its workers end by themselves, and another daemon takes over the path."""
    below = descendants(two.process.pid)
    two.process.signal(signal.SIGKILL)
    two.process.wait()
    wait_until(lambda: not any(is_alive(pid) for pid in below), "end of all processes")
    two.start()
    with CriClient(two.endpoint) as client:
        assert client.Version().runtime_name


def test_signals_to_the_whole_group(two: Criproxy) -> None:
    """Workers leave Ctrl-C to the supervisor: the daemon ends once, with status 0."""
    os.killpg(two.process.pid, signal.SIGINT)
    assert two.process.wait() == 0
    assert "Traceback" not in two.process.stderr
    assert two.event("stopped")["calls_cut"] == 0


def _answers(client: CriClient) -> bool:
    try:
        return bool(client.Version().runtime_name)
    except grpc.RpcError:
        return False


def test_bypass_after_repeated_ends(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """Listeners of a worker that keeps ending are bypassed if configured, scoped ones never."""
    config = {"listeners": listeners(short_dir, runtime), "workers": {"bypass_after": 2}}
    with Criproxy(short_dir, config=config) as proxy:
        for name in ("scoped", "full"):
            for count in (1, 2):
                os.kill(named(proxy.process.pid, f"criproxy:{name}"), signal.SIGKILL)
                wait_until(
                    lambda name=name, count=count: (
                        len(proxy.events("worker started", worker=name)) == count
                    ),
                    "another worker",
                )
        bypassed = proxy.events("listener bypassed: its worker keeps ending")
        assert [line["listener"] for line in bypassed] == [
            f"unix://{short_dir}/proxy.sock",
            f"unix://{short_dir}/second.sock",
        ]
        assert proxy.path.readlink() == short_dir / "cri.sock"
        assert not (short_dir / "scoped.sock").is_symlink()
        assert proxy.metric("criproxy_listener_bypassed") == 2
        with CriClient(proxy.endpoint) as client:
            assert client.Version().runtime_name


def test_rules_of_several_workers(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """/rules has the sums of all workers, and the time of the last match at any of them."""
    config = {
        "listeners": listeners(short_dir, runtime),
        "rules": [{"name": "a", "match": {"methods": ["Status"]}, "deny": {}}],
    }
    with Criproxy(short_dir, config=config) as proxy:
        matched = []
        for number, name in enumerate(("proxy", "scoped", "proxy"), 1):
            with CriClient(f"unix://{short_dir}/{name}.sock", timeout=LIMIT_SECONDS) as client:
                assert code_of(client.Status) == "PERMISSION_DENIED"
            (rule,) = json.loads(proxy.get("/rules")[1])["rules"]
            assert (rule["matches"], rule["errors"]) == (number, 0)
            matched.append(rule["last_match"])
        assert matched == sorted(set(matched))


def test_a_worker_that_cannot_start(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """A worker whose hook script is gone is started again and again until it is back."""
    script = short_dir / "hook.py"
    script.write_text("def request(call): pass\n")
    hook = {"script": str(script), "timeout": f"{LIMIT_SECONDS:g}s"}
    config = {"rules": [{"name": "a", "match": {"methods": ["Status"]}, "hook": hook}]}
    with Criproxy(short_dir, runtime.endpoint, config=config) as proxy:
        script.unlink()
        os.kill(named(proxy.process.pid, FULL), signal.SIGKILL)
        assert str(script) in proxy.event("worker does not start")["error"]
        script.write_text("def request(call): pass\n")
        proxy.event("worker started")
        with CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client:
            assert client.Status().status


def test_limits_that_are_configured(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """Limits of memory and of descriptors are those of the worker's process."""
    limits = {"memory": "4GiB", "descriptors": 500}
    config = {"listeners": listeners(short_dir, runtime), "workers": {"scoped": limits}}
    with Criproxy(short_dir, config=config) as proxy:
        scoped = named(proxy.process.pid, SCOPED)
        assert resource.prlimit(scoped, resource.RLIMIT_AS) == (4 << 30, 4 << 30)
        assert resource.prlimit(scoped, resource.RLIMIT_NOFILE) == (500, 500)
