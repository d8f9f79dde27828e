"""criproxy runtime."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from criproxy.cli.runtime import command
from criproxy.client import CriClient
from criproxy.errors import EndpointError, UsageError
from tests.support.waiting import LIMIT_SECONDS

RUN = "from criproxy.cli.runtime import command; command()"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_runs_until_it_is_told_to_stop(short_dir: Path, number: signal.Signals) -> None:
    """It says in one line that it listens, answers, and ends with 0 and without its socket."""
    path = short_dir / "cri.sock"
    options = ["--listen", str(path), "--latency", "none", "--pods", "2"]
    with subprocess.Popen(
        [sys.executable, "-c", RUN, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"embedded CRI runtime listening on unix://{path}\n"
        with CriClient(str(path), timeout=LIMIT_SECONDS) as client:
            assert len(client.ListContainers().containers) == 2
        process.send_signal(number)
        assert process.communicate() == ("", "")
    assert process.returncode == 0
    assert not path.exists()


def test_wrong_latency_is_a_usage_error(short_dir: Path) -> None:
    """A latency that cannot be read is named with the option and what can be written."""
    arguments = ["--listen", str(short_dir / "cri.sock"), "--latency", "quick"]
    error = CliRunner().invoke(command, arguments).exception
    assert isinstance(error, UsageError)
    assert str(error).startswith("--latency: latency 'quick': write real, none")


def test_wrong_endpoint_is_a_usage_error() -> None:
    """A socket that cannot be is the user's mistake."""
    error = CliRunner().invoke(command, ["--listen", "/nonexistent/cri.sock"]).exception
    assert isinstance(error, EndpointError)


def test_help_has_examples() -> None:
    """--help explains the options and shows how to use them."""
    result = CliRunner().invoke(command, ["--help"])
    assert result.exit_code == 0
    assert "\n    criproxy runtime --listen unix:///tmp/cri.sock" in result.output
