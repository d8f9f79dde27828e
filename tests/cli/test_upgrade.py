"""criproxy upgrade."""

import os
import signal
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from criproxy.cli.daemon.bypass import command as bypass
from criproxy.cli.daemon.upgrade import command
from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.errors import UnavailableError, UsageError
from tests.support.criproxy import Criproxy
from tests.support.raw_sockets import listening_pid
from tests.support.waiting import LIMIT_SECONDS, wait_until


def written(directory: Path, endpoint: str, runtime: str = "/nowhere.sock") -> Path:
    """A configuration with one listener."""
    file = directory / "config.yaml"
    file.write_text(yaml.safe_dump({"listeners": [{"endpoint": endpoint, "runtime": runtime}]}))
    return file


def failure(file: Path, *options: str) -> BaseException | None:
    return CliRunner().invoke(command, ["-c", str(file), *options]).exception


def test_nobody_listens(short_dir: Path) -> None:
    """The error names the socket, and asks for the configuration."""
    error = failure(written(short_dir, f"{short_dir}/proxy.sock"))
    assert isinstance(error, UnavailableError)
    assert str(error).startswith(f"unix://{short_dir}/proxy.sock: No such file")


def test_another_process_is_not_signalled(short_dir: Path) -> None:
    """SIGUSR2 ends most programs: it goes to a criproxy alone."""
    with EmbeddedRuntime(f"unix://{short_dir}/proxy.sock") as runtime:
        error = failure(written(short_dir, runtime.endpoint))
    assert isinstance(error, UnavailableError)
    assert str(error).endswith("which is not criproxy run")


def test_not_while_it_is_bypassed(short_dir: Path) -> None:
    """The listening process of a bypassed listener is the runtime: the bypass has to end first."""
    with EmbeddedRuntime(f"unix://{short_dir}/runtime.sock") as runtime:
        file = written(short_dir, f"{short_dir}/proxy.sock", runtime.endpoint)
        assert CliRunner().invoke(bypass, ["on", "-c", str(file)]).exit_code == 0
        error = failure(file)
    assert isinstance(error, UnavailableError)
    assert "criproxy bypass off" in str(error)


@pytest.mark.parametrize("text", ["soon", "0s"])
def test_a_wrong_timeout(text: str, short_dir: Path) -> None:
    """The error names the option."""
    error = failure(written(short_dir, f"{short_dir}/proxy.sock"), "--timeout", text)
    assert isinstance(error, UsageError)
    assert str(error).startswith("--timeout: ")


def test_a_running_daemon_is_replaced(short_dir: Path) -> None:
    """Another process listens afterwards, and a client's calls succeed before and after."""
    with (
        EmbeddedRuntime(f"unix://{short_dir}/runtime.sock") as runtime,
        Criproxy(short_dir, runtime.endpoint) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        assert client.Version().runtime_name
        result = CliRunner().invoke(command, ["-c", str(proxy.file)])
        successor = listening_pid(proxy.path)
        try:
            expected = f"upgraded: pid {successor} has replaced pid {proxy.process.pid}\n"
            assert result.output == expected
            assert client.Version().runtime_name
            assert proxy.process.wait(LIMIT_SECONDS) == 0
        finally:
            os.kill(successor, signal.SIGTERM)
            wait_until(lambda: not proxy.path.exists(), "end of the successor")


def test_a_version_that_does_not_start_changes_nothing(short_dir: Path) -> None:
    """The old daemon goes on where the new one cannot, and the error names it."""
    with (
        EmbeddedRuntime(f"unix://{short_dir}/runtime.sock") as runtime,
        Criproxy(short_dir, runtime.endpoint) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        good = proxy.file.read_text()
        settings = short_dir / "settings.yaml"
        settings.write_text(good)
        proxy.file.write_text("listeners: broken")
        error = failure(settings, "--timeout", "20s")
        assert isinstance(error, UnavailableError)
        assert f"criproxy (pid {proxy.process.pid}) has not been replaced" in str(error)
        assert client.Version().runtime_name
        assert listening_pid(proxy.path) == proxy.process.pid
