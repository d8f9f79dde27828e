"""Files below a root directory: what is there, and replacing it in one step.

Paths are absolute within the tree. Symbolic links are followed as a process with that root would
follow them, so that a tree that is mounted elsewhere never leads to the files of this machine.
"""

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct

from criproxy.common.opening import open_at_once
from criproxy.errors import UnavailableError, UsageError

_MAX_LINKS: Final = 40
"""Symbolic links that are followed in one path, as by the kernel (path_resolution(7))."""

MAX_BYTES: Final = 1 << 20
"""Maximum size of a file that is changed: configuration files are far smaller."""


class FileState(Struct, frozen=True, omit_defaults=True):
    """What is at a path: its kind, mode, owner and content."""

    kind: Literal["absent", "file", "link", "directory"]
    mode: int = 0
    """The permission bits; 0 of a link."""
    uid: int = 0
    gid: int = 0
    content: str = ""
    """SHA-256 of a file's bytes in hexadecimal, or the target of a link."""


ABSENT: Final = FileState("absent")


def digest(content: bytes) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


class Tree:
    """The files below ``root``."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root.resolve()
        self._prefix = str(self.root).rstrip("/")

    def real(self, path: str) -> str:
        """Return a path within the tree without symbolic links; what is missing is kept as it is.

        Raises UsageError for links that lead in a circle.
        """
        pending = [*reversed([each for each in path.split("/") if each])]
        found: list[str] = []
        links = 0
        while pending:
            part = pending.pop()
            if part in (".", ".."):
                del found[len(found) - (part == "..") :]
                continue
            try:
                target = os.readlink("/".join([self._prefix, *found, part]))
            except OSError:
                found.append(part)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise UsageError(f"{path}: too many symbolic links; name a file that exists")
            if target.startswith("/"):
                found.clear()
            pending += reversed([each for each in target.split("/") if each])
        return "/" + "/".join(found)

    def host(self, path: str) -> Path:
        """Return where a path of :meth:`real` is on this machine.

        The path may be one of a journal, and its directories links by now: they are followed within
        the tree. A link at its end is not.
        """
        parent, _, name = path.rpartition("/")
        if name in ("", ".", ".."):
            return Path(self._prefix + self.real(path))
        return Path(f"{self._prefix}{self.real(parent).rstrip('/')}/{name}")

    def state(self, path: str) -> FileState:
        """Return what is at a path of :meth:`real`; a link at its end is not followed.

        Raises UsageError for what can neither be kept nor put back: sockets, devices, large files.
        """
        host = self.host(path)
        try:
            found = host.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return ABSENT
        mode = stat.S_IMODE(found.st_mode)
        if stat.S_ISLNK(found.st_mode):
            return FileState("link", 0, found.st_uid, found.st_gid, os.readlink(host))
        if stat.S_ISDIR(found.st_mode):
            return FileState("directory", mode, found.st_uid, found.st_gid)
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"{path} is no regular file; remove it, or name another place")
        return FileState("file", mode, found.st_uid, found.st_gid, digest(self.read(path)))

    def read(self, path: str) -> bytes:
        """Return the content of a file at a path of :meth:`real`. Raises UsageError and OSError."""
        with open_at_once(self.host(path)) as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UsageError(f"{path} has more than {MAX_BYTES} bytes; it is no configuration file")
        return content

    def text(self, path: str) -> str | None:
        """Return the text at any path; None if there is no file. Raises UsageError and OSError."""
        try:
            return self.read(self.real(path)).decode()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UnicodeDecodeError:
            raise UsageError(f"{path} is not UTF-8; correct the file") from None

    def exists(self, path: str) -> bool:
        """Return whether there is something at a path."""
        return self.host(self.real(path)).exists()

    def check_writable(self, path: str) -> None:
        """Raise UnavailableError if the file at a path could not be replaced by this user."""
        directory = self.host(path).parent
        while not directory.exists():
            directory = directory.parent
        shown = f"/{directory.relative_to(self.root)}".replace("/.", "/")
        if os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
            return
        if os.statvfs(directory).f_flag & os.ST_RDONLY:
            raise UnavailableError(
                f"{shown} is on a file system that is read-only, and {path} has to be written; "
                "remount it with rw, or install into the image that it comes from (--root)"
            )
        raise UnavailableError(f"{shown} may not be written by this user; run it as root")

    def put(self, path: str, source: Path, state: FileState) -> None:
        """Replace what is at ``path`` by a copy of a staged file, link or directory in one step."""
        target = self.host(path)
        if state.kind == "absent":
            self._remove(target)
        elif state.kind == "directory":
            with suppress(FileExistsError):
                target.mkdir()
            os.chown(target, state.uid, state.gid)
            target.chmod(state.mode)
        else:
            with _beside(target) as temporary:
                copy(source, temporary)
                os.rename(temporary, target)
        sync_directory(target.parent)

    def put_back(self, path: str, source: Path, state: FileState) -> None:
        """Do as :meth:`put` with a file that is not needed afterwards.

        It is renamed where that can be done: a disk that is full does not keep it from its place.
        """
        if state.kind not in ("file", "link"):
            self.put(path, source, state)
            return
        target = self.host(path)
        with suppress(FileNotFoundError):
            temporary_of(target).unlink()
        try:
            os.rename(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self.put(path, source, state)
        sync_directory(target.parent)

    def _remove(self, target: Path) -> None:
        try:
            if target.is_dir() and not target.is_symlink():
                target.rmdir()
            else:
                target.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            # A directory that others have put files into stays.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def temporary_of(target: Path) -> Path:
    """Return the name under which a file is completed before it takes its place."""
    return target.with_name(f".{target.name}.criproxy")


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    temporary = temporary_of(target)
    temporary.unlink(missing_ok=True)  # of a process that was killed here
    try:
        yield temporary
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def copy(source: Path, target: Path) -> None:
    """Copy a file or a link with all of its attributes, and have it on disk."""
    if source.is_symlink():
        target.symlink_to(os.readlink(source))
    else:
        with open_at_once(source) as read, target.open("xb") as written:
            shutil.copyfileobj(read, written)
            written.flush()
            os.fsync(written.fileno())
    copy_attributes(source, target)


def copy_attributes(source: Path, target: Path) -> None:
    """Give a file the owner, mode, times and extended attributes of another."""
    found = source.lstat()
    own = target.lstat()
    if (own.st_uid, own.st_gid) != (found.st_uid, found.st_gid):
        os.chown(target, found.st_uid, found.st_gid, follow_symlinks=False)
    shutil.copystat(source, target, follow_symlinks=False)


def sync_directory(directory: Path) -> None:
    """Have a directory's entries on disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
