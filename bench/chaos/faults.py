"""Measures the effect of faults: stopped processes and peers, a full disk, no free descriptors."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from bench.chaos.load import Load, Record, describe
from bench.chaos.node import Node
from bench.chaos.report import Report, Verdict
from bench.chaos.sizes import Sizes
from bench.processes import family
from tests.attacks.inputs import BY_NAME
from tests.attacks.setup import attacking
from tests.support.raw_sockets import dial
from tests.support.waiting import wait_until

STOPPED_SECONDS: Final = 2.0
DESCRIPTORS: Final = 80
DISK: Final = "512k"


def faults(directory: Path, sizes: Sizes) -> Report:
    """Each fault happens under load on the full listener, and ends again.

    SIGSTOP lasts for two seconds. The disk that is full is a tmpfs of 512 KiB with the call log and
    the audit log. Descriptors run out when more clients connect than a limit of 80 leaves room for.
    """
    rows: list[list[str]] = []
    verdicts: list[Verdict] = []
    for name, fault in FAULTS.items():
        place = directory / name.replace(" ", "-")
        place.mkdir()
        record = fault(place, sizes.faults)
        if record is None:
            rows.append([name, "-", "-", "-", "-", "not possible here"])
            continue
        failed = record.failures
        worst = f"{record.worst * 1e3:.0f} ms"
        row = [name, str(sizes.faults), str(len(record.calls)), str(len(failed))]
        rows.append([*row, str(record.hung), worst])
        claim = f"{name}: no call of the full listener fails or hangs"
        verdicts.append(Verdict(claim, f"{len(failed)}: {describe(failed)}", not failed))
    header = ["fault", "times", "calls", "failed", "hung", "worst call"]
    about = (faults.__doc__ or "").replace("\n    ", "\n")
    return Report("faults", "Faults", about, header, rows, verdicts)


def _stopped(kind: str) -> Callable[[Path, int], Record | None]:
    """Return a fault that stops a process of the daemon for a while."""

    def fault(directory: Path, times: int) -> Record | None:
        sink = {"file": {"path": str(directory / "audit.jsonl")}}
        config = {"audit": {"policy": [{"level": "Metadata"}], "sinks": [sink]}}
        with Node(directory, config=config) as node, Load(node.endpoint) as load:
            for _ in range(times):
                found = [pid for pid, name in node.processes().items() if name.startswith(kind)]
                if not found:
                    return None
                _more_calls(load)
                with _sigstop(found[0]):
                    time.sleep(STOPPED_SECONDS)
                _more_calls(load)
            return load.record

    return fault


def _stopped_runtime(directory: Path, times: int) -> Record:
    with Node(directory) as node, Load(node.endpoint) as load:
        for _ in range(times):
            _more_calls(load)
            with _sigstop(node.runtime_pid):
                time.sleep(STOPPED_SECONDS)
            _more_calls(load)
        return load.record


def _stopped_client(directory: Path, times: int) -> Record:
    """A client of the scoped listener that asks for lists stops reading in the middle."""
    with Node(directory) as node, Load(node.endpoint) as load:
        for _ in range(times):
            attack, path = BY_NAME["rapid-reset"], str(directory / "scoped.sock")
            with (
                attacking(attack, "v1", path, directory / "client") as client,
                _sigstop(client.pid),
            ):
                _more_calls(load)
                time.sleep(STOPPED_SECONDS)
                _more_calls(load)
        return load.record


def _full_disk(directory: Path, times: int) -> Record | None:
    disk = directory / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        return None
    try:
        sink = {"file": {"path": str(disk / "audit.jsonl")}}
        config: dict[str, Any] = {
            "audit": {"policy": [{"level": "RequestResponse"}], "sinks": [sink]},
            "log": {"file": str(disk / "log"), "level": "debug", "format": "json"},
        }
        with Node(directory, config=config) as node, Load(node.endpoint) as load:
            for _ in range(times):
                wait_until(lambda: _free(disk) == 0, "full disk")
                for _ in range(5):
                    _more_calls(load)
                (disk / "audit.jsonl").unlink(missing_ok=True)
                with suppress(FileNotFoundError):
                    os.truncate(disk / "log", 0)
                _more_calls(load)
            return load.record
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def _no_descriptors(directory: Path, times: int) -> Record:
    """Clients of the scoped listener take every descriptor that its worker may have."""
    with Node(directory) as node, Load(node.endpoint) as load:
        for _ in range(times):
            for pid in family(node.pid):
                limit = f"--nofile={DESCRIPTORS}:"
                command = ["prlimit", "--pid", str(pid), limit]
                subprocess.run(command, check=True, capture_output=True)
            clients = [dial(directory / "scoped.sock") for _ in range(2 * DESCRIPTORS)]
            for _ in range(5):
                _more_calls(load)
            for client in clients:
                client.close()
            _more_calls(load)
        return load.record


@contextmanager
def _sigstop(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _more_calls(load: Load) -> None:
    wanted = load.completed() + 10
    wait_until(lambda: load.completed() >= wanted, "calls that end")


def _free(directory: Path) -> int:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


FAULTS: Final[dict[str, Callable[[Path, int], Record | None]]] = {
    "SIGSTOP of the full worker": _stopped("full"),
    "SIGSTOP of a scoped worker": _stopped("scoped"),
    "SIGSTOP of the recorder": _stopped("audit"),
    "SIGSTOP of the supervisor": _stopped("supervisor"),
    "SIGSTOP of the runtime": _stopped_runtime,
    "SIGSTOP of a client": _stopped_client,
    "full disk": _full_disk,
    "no descriptors left": _no_descriptors,
}
"""The faults by name; each returns the record of the load, or None where it is not possible."""
