"""The systemd units: their dependencies and settings, and that their commands exist."""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import click

from criproxy.cli.daemon.run import command
from criproxy.cli.support.admin_client import DEFAULT
from criproxy.config.schema import DEFAULT_ENDPOINT
from criproxy.relay.sockets import BACKLOG
from tests.support.requirements import require_systemd

UNITS = Path(__file__).parents[2] / "deploy/systemd"
SERVICE = UNITS / "criproxy.service"
SOCKET = UNITS / "criproxy.socket"
DROP_IN = UNITS / "criproxy.service.d/notify-reload.conf"
EXPOSURE = "29"
"""Of 100, as systemd-analyze counts: 96 without any setting."""


def _values(key: str, unit: Path = SERVICE) -> list[str]:
    """Return the values of a key, which may stand there more than once, split into words."""
    return [
        word
        for line in unit.read_text().splitlines()
        if line.startswith(f"{key}=")
        for word in line.removeprefix(f"{key}=").split()
    ]


def test_comes_between_the_runtimes_and_the_kubelet() -> None:
    """It starts after every runtime that it may stand in front of, and before the kubelet."""
    runtimes = {"containerd.service", "crio.service", "cri-docker.service"}
    assert set(_values("After")) == runtimes | {"criproxy.socket"}
    assert _values("Before") == _values("Before", SOCKET) == ["kubelet.service"]


def test_is_watched_and_started_again_and_again() -> None:
    """systemd knows when it is ready and when it hangs, and never gives up starting it."""
    assert _values("Type") == ["notify"]
    assert int(*_values("WatchdogSec")) > 0
    assert _values("Restart") == ["always"]
    assert _values("StartLimitIntervalSec") == ["0"]


def test_journald_discards_nothing() -> None:
    """journald's rate limit, which no sender notices, is lifted for audit records and calls."""
    assert _values("LogRateLimitIntervalSec") == ["0"]


def test_has_the_place_and_the_rights_that_the_daemon_needs() -> None:
    """Sockets in /run/criproxy, their owner and mode, foreign runtimes, and clients' names.

    The admin socket has a directory of its own, where the commands look for it.
    """
    assert _values("RuntimeDirectory") == ["criproxy", "criproxy-admin"]
    assert DEFAULT.path.startswith("/run/criproxy-admin/")
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
    """Reloading sends SIGHUP: by ExecReload, or since systemd 253 by the type of the service."""
    assert "-HUP" in _values("ExecReload")
    assert _values("Type", DROP_IN) == ["notify-reload"]
    assert "ExecReload=" in DROP_IN.read_text().splitlines()


def test_several_processes_are_one_service() -> None:
    """systemd stops only the supervisor, any process may become it, and a process that is killed
    for memory does not end the others."""
    assert _values("KillMode") == ["mixed"]
    assert _values("NotifyAccess") == ["all"]
    assert _values("OOMPolicy") == ["continue"]


def test_socket_is_that_of_the_default_listener() -> None:
    """systemd listens where clients of the default configuration connect, with the same backlog,
    and does not stop however often the daemon ends."""
    assert _values("ListenStream", SOCKET) == [DEFAULT_ENDPOINT.path]
    assert _values("SocketMode", SOCKET) == ["0660"]
    assert _values("Backlog", SOCKET) == [str(BACKLOG)]
    assert _values("TriggerLimitIntervalSec", SOCKET) == ["0"]


def _analyze(directory: Path, command: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a command of systemd-analyze on the units, whose program has a path of this machine."""
    require_systemd()
    program = _values("ExecStart")[0]
    service, socket = directory / SERVICE.name, directory / SOCKET.name
    service.write_text(SERVICE.read_text().replace(program, "/bin/true"))
    shutil.copy(SOCKET, socket)
    units = [service, socket] if command == "verify" else [service]
    return subprocess.run(
        ["systemd-analyze", command, *options, *map(str, units)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    """systemd-analyze finds nothing wrong, apart from the program's path on this machine."""
    ran = _analyze(tmp_path, "verify", "--man=no", "--recursive-errors=no")
    assert (ran.returncode, ran.stderr) == (0, "")


def test_systemd_finds_the_service_confined(tmp_path: Path) -> None:
    """The exposure level is at most 2.9 of 10, as the settings make it that cost a proxy nothing.

    With a lower threshold the same command fails: it does measure.
    """
    options = ("--offline=true", "--no-pager", "--threshold")
    ran = _analyze(tmp_path, "security", *options, EXPOSURE)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert _analyze(tmp_path, "security", *options, "10").returncode == 1


def test_what_is_not_set_has_a_reason(tmp_path: Path) -> None:
    """Each setting that systemd-analyze misses is there with other values, or a comment says why
    it cannot be set."""
    options = ("--offline=true", "--no-pager", "--json=short")
    ran = _analyze(tmp_path, "security", *options)
    missing = {
        each["name"].partition("=")[0]
        for each in json.loads(ran.stdout)
        if each["exposure"] is not None
    }
    commented = " ".join(line for line in SERVICE.read_text().splitlines() if line[:1] == "#")
    assert missing
    assert {key for key in missing if not _values(key) and f"{key}=" not in commented} == set()
