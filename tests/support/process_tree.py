"""Finds the processes of a daemon by their names."""

import os
from collections.abc import Iterator
from pathlib import Path


def descendants(pid: int) -> dict[int, str]:
    """The processes below one, in any generation, with their names (proc(5), comm)."""
    parents: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for each, parent, name in _processes():
        parents.setdefault(parent, []).append(each)
        names[each] = name
    found: dict[int, str] = {}
    waiting = [pid]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            found[child] = names[child]
            waiting.append(child)
    return found


def named(pid: int, name: str) -> int:
    """The one process below another that has a name. Raises AssertionError for none or several."""
    found = [each for each, its in descendants(pid).items() if its == name]
    assert len(found) == 1, f"{name}: {found} of {descendants(pid)}"
    return found[0]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def _processes() -> Iterator[tuple[int, int, str]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path(f"/proc/{entry}/stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            name, _, rest = text.partition("(")[2].rpartition(")")
            if rest.split()[0] not in "ZX":
                yield int(entry), int(rest.split()[1]), name
