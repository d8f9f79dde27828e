"""The demo's daemon as a child process."""

import os
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

from criproxy.cli.demo import command
from criproxy.concurrency import command_process
from criproxy.demo import scenario
from criproxy.demo.proxy import ProxyProcess
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.errors import UnavailableError
from criproxy.relay.endpoints import parse_endpoint


def proxy_at(directory: Path, listen: str) -> ProxyProcess:
    runtime = parse_endpoint(f"unix://{directory}/runtime.sock")
    return ProxyProcess(directory, parse_endpoint(listen), runtime)


def test_a_daemon_that_does_not_start(short_dir: Path) -> None:
    """The error has the daemon's own, and no process is left."""
    (short_dir / "file").touch()
    proxy = proxy_at(short_dir, f"unix://{short_dir}/file/proxy.sock")
    with (
        pytest.raises(UnavailableError, match=r"^the proxy did not start: .*file/proxy\.sock"),
        proxy,
    ):
        pass
    assert proxy.pid is None


def test_a_daemon_that_was_killed(short_dir: Path) -> None:
    """Without the daemon there are no counts, and the error names the metrics."""
    with proxy_at(short_dir, f"unix://{short_dir}/proxy.sock") as proxy:
        assert proxy.counts().total() == 0
        proxy.kill()
        os.waitid(os.P_PID, proxy.pid or 0, os.WEXITED | os.WNOWAIT)
        with pytest.raises(UnavailableError, match="the proxy's page /metrics cannot be read"):
            proxy.counts()


def test_a_daemon_that_does_not_end(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed after a time."""
    monkeypatch.setattr(command_process, "_STOP_SECONDS", 0.1)
    with proxy_at(short_dir, f"unix://{short_dir}/proxy.sock") as proxy:
        pid = proxy.pid or 0
        os.kill(pid, signal.SIGSTOP)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_counts_that_differ(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each method that the proxy has not counted as the client has is named; the demo fails."""
    monkeypatch.setattr(scenario, "_SETTLE_SECONDS", 0.0)
    counts = ProxyProcess.counts

    def without_version(self: ProxyProcess) -> scenario.Counts:
        found = counts(self)
        del found["Version", "OK"]
        return found

    monkeypatch.setattr(ProxyProcess, "counts", without_version)
    with EmbeddedRuntime(f"unix://{short_dir}/cri.sock") as runtime:
        options = ["--runtime-endpoint", runtime.endpoint, "--for", "100ms"]
        result = CliRunner().invoke(command, options)
    assert isinstance(result.exception, UnavailableError)
    assert "Version" in result.output


def test_rules_that_do_not_act(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo fails where the proxy lets the call pass that it should have denied."""
    monkeypatch.setattr(scenario, "settings", lambda *_: {})
    with EmbeddedRuntime(f"unix://{short_dir}/cri.sock", latency="none") as runtime:
        options = ["--runtime-endpoint", runtime.endpoint, "--for", "100ms"]
        result = CliRunner().invoke(command, options)
    assert isinstance(result.exception, UnavailableError)
    assert "did not deny a privileged container" in str(result.exception)
