"""A node: a runtime, the sockets that systemd would keep, and one daemon after the other."""

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from bench.processes import family, has_ended, pss_bytes
from criproxy.embedded.process import RuntimeProcess
from tests.support.criproxy import Criproxy
from tests.support.raw_sockets import listening_pid
from tests.support.waiting import wait_until

PODS: Final = 20
BACKLOG: Final = 4096
SCOPED: Final = "scoped"


class Node:
    """criproxy in front of a runtime, from entering to leaving the block.

    Its listeners are ``proxy.sock``, which has the profile full, and ``scoped.sock``, which is
    read-only. With ``kept``, both are bound here and passed to each daemon, as systemd does. The
    runtime is the embedded one unless ``runtime`` is the endpoint of another. With ``shield``,
    reads of the full listener that are in flight when the runtime restarts are made again.
    """

    def __init__(
        self,
        directory: Path,
        *,
        kept: bool = True,
        runtime: str = "",
        shield: bool = False,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.directory = directory
        self.path = directory / "proxy.sock"
        self.endpoint = f"unix://{self.path}"
        self.scoped = f"unix://{directory}/{SCOPED}.sock"
        self.audit = directory / "audit.jsonl"
        self._runtime = (
            None if runtime else RuntimeProcess(f"unix://{directory}/r.sock", "none", PODS)
        )
        upstream = runtime or f"unix://{directory}/r.sock"
        more = {"shield": "reads"} if shield else {}
        self.content: dict[str, Any] = {
            "listeners": [
                {"endpoint": self.endpoint, "runtime": upstream} | more,
                {"endpoint": self.scoped, "runtime": upstream, "profile": "read-only"},
            ],
            "log": {"level": "info", "methods": {"*": "off"}},
            **(config or {}),
        }
        self._sockets: list[socket.socket] = []
        self._kept = kept
        self._daemons: list[Criproxy] = []

    @property
    def daemon(self) -> Criproxy:
        """The daemon that was started last."""
        return self._daemons[-1]

    @property
    def pid(self) -> int:
        """The supervisor: the process that listens."""
        return listening_pid(self.path)

    @property
    def runtime_pid(self) -> int:
        """The process of the embedded runtime."""
        assert self._runtime is not None
        assert self._runtime.pid is not None
        return self._runtime.pid

    def start_daemon(self) -> Criproxy:
        """Start a daemon beside those before it, and wait until it is ready."""
        launcher: tuple[str, ...] = ()
        descriptors = [sock.fileno() for sock in self._sockets]
        if descriptors:
            numbers = ",".join(map(str, descriptors))
            launcher = (sys.executable, "-m", "bench.chaos.activate", numbers)
        daemon = Criproxy(
            self.directory,
            config=self.content,
            name=f"daemon{len(self._daemons)}",
            launcher=launcher,
            descriptors=descriptors,
        )
        self._daemons.append(daemon)
        daemon.start()
        return daemon

    def processes(self) -> dict[int, str]:
        """Return the daemon's processes by pid, with their kinds: supervisor, spawner, ..."""
        supervisor = self.pid
        found = {}
        for pid in family(supervisor):
            with contextlib.suppress(OSError):
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                _, _, kind = name.partition(":")
                found[pid] = "supervisor" if pid == supervisor else kind or name
        return found

    def memory(self) -> int:
        """Return the proportional set size of all the daemon's processes, in bytes."""
        return sum(pss_bytes(self.pid).values())

    def descriptors(self) -> int:
        """Return how many descriptors the daemon's processes have open."""
        return sum(_count(f"/proc/{pid}/fd") for pid in family(self.pid))

    def threads(self) -> int:
        """Return how many threads the daemon's processes have."""
        return sum(_count(f"/proc/{pid}/task") for pid in family(self.pid))

    def __enter__(self) -> Self:
        try:
            if self._runtime is not None:
                self._runtime.start()
            if self._kept:
                for path in (self.path, self.directory / f"{SCOPED}.sock"):
                    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                    self._sockets.append(sock)
                    sock.bind(str(path))
                    sock.listen(BACKLOG)
            self.start_daemon()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            last = self.pid
            if last not in [os.getpid(), *(each.process.pid for each in self._daemons)]:
                _end(last)  # the successor of an upgrade is nobody's child here
        for daemon in self._daemons:
            daemon.kill()
        for sock in self._sockets:
            sock.close()
        if self._runtime is not None:
            self._runtime.stop()


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)
    time.sleep(0.1)
    os.kill(pid, signal.SIGTERM)  # a second one ends calls in flight
    wait_until(lambda: has_ended(pid), f"end of process {pid}")


def _count(directory: str) -> int:
    try:
        return len(os.listdir(directory))
    except OSError:
        return 0
