"""criproxy upgrade."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from criproxy.cli.bypass import command as bypass
from criproxy.cli.upgrade import command
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.errors import UnavailableError, UsageError


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
