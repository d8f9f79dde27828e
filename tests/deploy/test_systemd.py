"""The systemd unit: what a node relies on, and a command that exists."""

import shlex
from pathlib import Path

import click

from criproxy.cli.run import command

UNIT = Path(__file__).parents[2] / "deploy/systemd/criproxy.service"


def _values(key: str) -> list[str]:
    """Return the values of a key, which may stand there more than once, split into words."""
    return [
        word
        for line in UNIT.read_text().splitlines()
        if line.startswith(f"{key}=")
        for word in line.removeprefix(f"{key}=").split()
    ]


def test_comes_between_the_runtimes_and_the_kubelet() -> None:
    """It starts after every runtime that it may stand in front of, and before the kubelet."""
    assert set(_values("After")) == {"containerd.service", "crio.service", "cri-docker.service"}
    assert _values("Before") == ["kubelet.service"]


def test_is_watched_and_started_again_and_again() -> None:
    """systemd knows when it is ready and when it hangs, and never gives up starting it."""
    assert _values("Type") == ["notify"]
    assert int(*_values("WatchdogSec")) > 0
    assert _values("Restart") == ["always"]
    assert _values("StartLimitIntervalSec") == ["0"]


def test_has_the_place_and_the_rights_that_the_daemon_needs() -> None:
    """Sockets in /run/criproxy, their owner and mode, foreign runtimes, and clients' names."""
    assert _values("RuntimeDirectory") == ["criproxy"]
    assert set(_values("CapabilityBoundingSet")) == {
        *("CAP_CHOWN", "CAP_FOWNER", "CAP_DAC_OVERRIDE", "CAP_SYS_PTRACE")
    }
    assert "AF_UNIX" in _values("RestrictAddressFamilies")
    assert not _values("ProtectProc")


def test_starts_a_command_that_exists() -> None:
    """ExecStart's options are those of the command line."""
    program, name, *arguments = shlex.split(" ".join(_values("ExecStart")))
    assert program.endswith("/criproxy")
    assert name == "run"
    with command.make_context(name, arguments) as context:
        assert isinstance(context, click.Context)
        assert context.params["config"] == Path("/etc/criproxy/config.yaml")


def test_reload_sends_the_signal() -> None:
    """Reloading sends the signal that the daemon reads its rules and opens its log file anew on."""
    assert "-HUP" in _values("ExecReload")
