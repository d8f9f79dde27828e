"""Parses /proc/PID/mountinfo (proc_pid_mountinfo(5)) and resolves paths through mounts."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

_REMOVED: Final = "//deleted"
"""What the kernel appends to the path of a mounted file that has been removed."""

_OCTAL: Final = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """A mount: a directory or file of a file system, and its mount point."""

    device: str
    """``major:minor``."""
    root: str
    """The mounted path within the file system."""
    point: str
    kind: str = ""
    options: str = ""
    """Options of the mount, then of the file system, separated by commas."""


class MountLocation(NamedTuple):
    """A file's location in its file system, independent of mount points."""

    device: str
    path: str


def parse(text: str) -> list[Mount]:
    """Parse a mountinfo in order; malformed lines are skipped."""
    found = []
    for line in text.split("\n"):  # not splitlines: a path may contain other line separators
        fields = line.split(" ")
        if len(fields) < 10 or "-" not in fields[6:]:
            continue
        device, root, point, options = fields[2:6]
        after = fields[fields.index("-", 6) + 1 :]
        kind = after[0] if after else ""
        options += f",{after[2]}" if len(after) > 2 else ""
        found.append(Mount(device, _unescape(root), _unescape(point), kind, options))
    return found


def is_removed(mount: Mount, location: MountLocation) -> bool:
    """Return whether a mount is of a file that has been removed from a location."""
    return mount.device == location.device and mount.root == f"{location.path}{_REMOVED}"


def locate(path: str, mounts: Sequence[Mount]) -> MountLocation | None:
    """Return the location of a path without symbolic links; None if no mount covers it."""
    mount = mount_of(path, mounts)
    if mount is None:
        return None
    return MountLocation(mount.device, _join(mount.root, _below(path, mount.point) or ""))


def visible_path(location: MountLocation, mounts: Sequence[Mount]) -> str | None:
    """Return the first path at which a location is visible; None if it is not."""
    for mount in mounts:
        if mount.device != location.device:
            continue
        rest = _below(location.path, mount.root)
        if rest is None:
            continue
        path = _join(mount.point, rest)
        if mount_of(path, mounts) is mount:
            return path
    return None


def mount_of(path: str, mounts: Sequence[Mount]) -> Mount | None:
    """Return the mount that covers a path: the deepest, and of equal mount points the last."""
    found: Mount | None = None
    for mount in mounts:
        if _below(path, mount.point) is not None and (
            found is None or len(mount.point) >= len(found.point)
        ):
            found = mount
    return found


def _below(path: str, directory: str) -> str | None:
    """Return a path relative to a directory; None if it is not below it."""
    if path == directory:
        return ""
    prefix = directory.rstrip("/") + "/"
    return path[len(prefix) :] if path.startswith(prefix) else None


def _join(directory: str, rest: str) -> str:
    return f"{directory.rstrip('/')}/{rest}" if rest else directory


def _unescape(text: str) -> str:
    """Decode the octal escapes of blanks and backslashes."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
