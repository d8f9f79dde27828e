"""Mounts of a mount namespace (/proc/PID/mountinfo, proc_pid_mountinfo(5)), and what they show."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

_OCTAL: Final = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """A mount: a directory or file of a file system, and where it is seen."""

    device: str
    """``major:minor``."""
    root: str
    """What of the file system is mounted."""
    point: str
    kind: str = ""
    options: str = ""
    """The mount's, then the file system's, with commas."""


class MountLocation(NamedTuple):
    """A file, whatever its path: where in which file system it is."""

    device: str
    path: str


def parse(text: str) -> list[Mount]:
    """Read a mountinfo in its order; lines that are none are passed over."""
    found = []
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) < 10 or "-" not in fields[6:]:
            continue
        device, root, point, options = fields[2:6]
        after = fields[fields.index("-", 6) + 1 :]
        kind = after[0] if after else ""
        options += f",{after[2]}" if len(after) > 2 else ""
        found.append(Mount(device, _plain(root), _plain(point), kind, options))
    return found


def place_of(path: str, mounts: Sequence[Mount]) -> MountLocation | None:
    """Return the file at a path without links; None where nothing is mounted above it."""
    mount = covering(path, mounts)
    if mount is None:
        return None
    return MountLocation(mount.device, _join(mount.root, _below(path, mount.point) or ""))


def seen_at(place: MountLocation, mounts: Sequence[Mount]) -> str | None:
    """Return the first path at which mounts show a file; None where they do not."""
    for mount in mounts:
        if mount.device != place.device:
            continue
        rest = _below(place.path, mount.root)
        if rest is None:
            continue
        path = _join(mount.point, rest)
        if covering(path, mounts) is mount:
            return path
    return None


def covering(path: str, mounts: Sequence[Mount]) -> Mount | None:
    """Return the mount that a path is in: the deepest, and of those at one place the last."""
    found: Mount | None = None
    for mount in mounts:
        if _below(path, mount.point) is not None and (
            found is None or len(mount.point) >= len(found.point)
        ):
            found = mount
    return found


def _below(path: str, directory: str) -> str | None:
    """Return what is left of a path below a directory, None if it is not there."""
    if path == directory:
        return ""
    prefix = directory.rstrip("/") + "/"
    return path[len(prefix) :] if path.startswith(prefix) else None


def _join(directory: str, rest: str) -> str:
    return f"{directory.rstrip('/')}/{rest}" if rest else directory


def _plain(text: str) -> str:
    """Blanks and the like are written in octal there."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
