"""Decides who may connect to a socket, by its mode, its owner and the directories above it."""

import grp
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_WRITE: Final = 2
_SEARCH: Final = 1


@dataclass(frozen=True, slots=True)
class SocketAccess:
    """A file's mode and owner."""

    mode: int
    uid: int
    gid: int

    def grants(self, uid: int, gids: set[int], right: int = _WRITE) -> bool:
        """Return whether a user may write to the file (2: connect) or search it (1)."""
        if uid == 0:
            return True
        if uid == self.uid:
            return bool(self.mode >> 6 & right)
        if self.gid in gids:
            return bool(self.mode >> 3 & right)
        return bool(self.mode & right)

    @property
    def others(self) -> bool:
        """Whether every user may connect."""
        return bool(self.mode & _WRITE)

    @property
    def group(self) -> int | None:
        """The gid of a group other than root's that may connect, else None."""
        return self.gid if self.mode >> 3 & _WRITE and self.gid else None

    @property
    def user(self) -> int | None:
        """The uid of an owner other than root that may connect, else None."""
        return self.uid if self.mode >> 6 & _WRITE and self.uid else None

    def wider_than(self, other: "SocketAccess") -> bool:
        """Return whether it grants access to a user to whom ``other`` does not."""
        if other.others:
            return False
        return (
            self.others
            or (self.group is not None and self.group != other.group)
            or (self.user is not None and self.user != other.user)
        )

    def __str__(self) -> str:
        return f"{self.mode:04o} {user_name(self.uid)}:{group_name(self.gid)}"


def access_of(path: Path) -> SocketAccess | None:
    """Read a file's mode and owner; None if it does not exist. Raises PermissionError."""
    try:
        found = path.stat()
    except PermissionError:
        raise
    except OSError:
        return None
    return SocketAccess(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)


def writable_parent(path: Path, root: Path = Path("/")) -> Path | None:
    """Return the nearest directory above a file in which users other than root may replace it.

    Directories above ``root`` are ignored. In one with the sticky bit only the owner can.
    """
    for directory in Path(os.path.realpath(path)).parents:
        access = access_of(directory)
        if access is not None and _replaceable(access):
            return directory
        if directory == root:
            break
    return None


def _replaceable(access: SocketAccess) -> bool:
    if access.user is not None:
        return True
    return not access.mode & stat.S_ISVTX and (access.others or access.group is not None)


def can_connect(path: Path, uid: int, gids: set[int], root: Path = Path("/")) -> bool:
    """Return whether a user may connect to a socket, by its mode and the directories above it."""
    access = access_of(path)
    if access is None or not access.grants(uid, gids):
        return False
    for directory in Path(os.path.realpath(path)).parents:
        above = access_of(directory)
        if above is not None and not above.grants(uid, gids, _SEARCH):
            return False
        if directory == root:
            break
    return True


def groups_of(uid: int) -> set[int]:
    """Return the gids of a user in the machine's user database; empty if unknown."""
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return set()
    return set(os.getgrouplist(user.pw_name, user.pw_gid))


def user_name(uid: int) -> str:
    """Return a user's name, else the uid as text."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """Return a group's name, else the gid as text."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
