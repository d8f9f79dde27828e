"""Reads CPU time and memory of a process and its descendants from /proc."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")

MIB = 1 << 20
IDLE_SECONDS = 0.05
SETTLE_SECONDS = 30.0


def cpu_seconds(pid: int) -> float:
    """CPU time, user and system, of a process, its descendants, and those it has waited for.

    The unit is a tick, usually 10 ms: too coarse for one short run.
    """
    return sum(sum(map(int, fields[11:15])) for fields in _tree(pid)) / _TICKS


def rss_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants; shared pages count in each."""
    return sum(int(fields[21]) * _PAGE for fields in _tree(pid))


def pss_bytes(pid: int) -> dict[int, int]:
    """Return the proportional set size of a process and its descendants, by pid.

    A page that several processes share counts in parts: the sum is what they need together.
    """
    found = {}
    for member in family(pid):
        try:
            text = Path(f"/proc/{member}/smaps_rollup").read_text()
        except OSError:  # it has just ended
            continue
        (line,) = (line for line in text.splitlines() if line.startswith("Pss:"))
        found[member] = int(line.split()[1]) << 10
    return found


def has_ended(pid: int) -> bool:
    """Return whether a process has ended, even if nobody has waited for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def settle(pid: int) -> None:
    """Wait until a process and its descendants use no CPU time, or for half a minute."""
    deadline = time.monotonic() + SETTLE_SECONDS
    before = cpu_seconds(pid)
    while time.monotonic() < deadline:
        time.sleep(IDLE_SECONDS)
        now = cpu_seconds(pid)
        if now == before:
            return
        before = now


def _tree(pid: int) -> Iterator[list[str]]:
    """Return the fields of /proc/PID/stat from the state on (proc(5)), of a process tree."""
    everyone = _stat_fields()
    return (everyone[number] for number in _family(pid, everyone))


def family(pid: int) -> list[int]:
    """Return the ids of a process and its descendants, parents first."""
    return _family(pid, _stat_fields())


def _stat_fields() -> dict[int, list[str]]:
    everyone = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text(errors="replace")  # a name may be any bytes
        except OSError:  # it has just ended
            continue
        everyone[int(path.parent.name)] = text.rpartition(")")[2].split()
    return everyone


def _family(pid: int, everyone: dict[int, list[str]]) -> list[int]:
    members = [pid] if pid in everyone else []
    for member in members:  # grows as it goes
        members += [number for number, fields in everyone.items() if int(fields[1]) == member]
    return members
