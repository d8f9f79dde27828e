"""Who may connect to a socket: its mode, its owner, and the directories on the way to it."""

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
        """Tell whether a user may write to the file (2), which is to connect, or search it (1)."""
        if uid == 0:
            return True
        if uid == self.uid:
            return bool(self.mode >> 6 & right)
        if self.gid in gids:
            return bool(self.mode >> 3 & right)
        return bool(self.mode & right)

    @property
    def others(self) -> bool:
        """Whether everybody may connect."""
        return bool(self.mode & _WRITE)

    @property
    def group(self) -> int | None:
        """The group that may connect and is not root's."""
        return self.gid if self.mode >> 3 & _WRITE and self.gid else None

    @property
    def user(self) -> int | None:
        """The owner that may connect and is not root."""
        return self.uid if self.mode >> 6 & _WRITE and self.uid else None

    def wider(self, than: "SocketAccess") -> bool:
        """Tell whether it lets somebody in whom the other does not."""
        if than.others:
            return False
        return (
            self.others
            or (self.group is not None and self.group != than.group)
            or (self.user is not None and self.user != than.user)
        )

    def __str__(self) -> str:
        return f"{self.mode:04o} {user_name(self.uid)}:{group_name(self.gid)}"


def permit_of(path: Path) -> SocketAccess | None:
    """Read a file's mode and owner; None where it is not there. Raises PermissionError."""
    try:
        found = path.stat()
    except PermissionError:
        raise
    except OSError:
        return None
    return SocketAccess(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)


def is_socket(path: Path) -> bool:
    """Tell whether there is a socket at a path, as far as this process may see."""
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def unguarded(path: Path, root: Path = Path("/")) -> Path | None:
    """Return the directory above a file, nearest first, in which others than root may replace it.

    What is above ``root`` is not looked at. Those with the sticky bit let nobody replace what is
    not his.
    """
    for directory in Path(os.path.realpath(path)).parents:
        permit = permit_of(directory)
        if permit is not None and _replaceable(permit):
            return directory
        if directory == root:
            break
    return None


def _replaceable(permit: SocketAccess) -> bool:
    if permit.user is not None:
        return True
    return not permit.mode & stat.S_ISVTX and (permit.others or permit.group is not None)


def reaches(path: Path, uid: int, gids: set[int], root: Path = Path("/")) -> bool:
    """Tell whether a user may connect to a socket: by its mode, and by the directories above."""
    permit = permit_of(path)
    if permit is None or not permit.grants(uid, gids):
        return False
    for directory in Path(os.path.realpath(path)).parents:
        above = permit_of(directory)
        if above is not None and not above.grants(uid, gids, _SEARCH):
            return False
        if directory == root:
            break
    return True


def groups_of(uid: int) -> set[int]:
    """Return the groups of a user, as far as this machine knows him."""
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return set()
    return set(os.getgrouplist(user.pw_name, user.pw_gid))


def user_name(uid: int) -> str:
    """Return a user's name, else the number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """Return a group's name, else the number."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
