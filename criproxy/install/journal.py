"""The journal: what a transaction changes, and what an installation has replaced, on disk.

::

    DIRECTORY/installed.json    the installation: each file that it changed, and what was there
    DIRECTORY/originals/        the files that were there
    DIRECTORY/pending.json      the transaction under way: its steps, each file before and after
    DIRECTORY/staged/           those files, complete before the first step
    DIRECTORY/progress          the number of the last step that was begun

``pending.json`` appears when all that the transaction needs is on disk, and disappears when it has
been committed or undone. Whether a file has been changed is read from the file itself; the progress
matters for the commands alone. It is overwritten in place, which needs no space on a full disk.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from criproxy.common.opening import open_at_once
from criproxy.errors import IncompleteError, UnavailableError
from criproxy.install.tree import FileState, Tree, copy, copy_attributes, sync_directory

DIRECTORY: Final = "/var/lib/criproxy/install"
"""Where the journal is within the tree."""

_FORMAT: Final = 1
_WIDTH: Final = 9
"""Digits of the progress: always as many, so that the file never grows."""


class Change(Struct, frozen=True, tag="file"):
    """A step that replaces a file, a link or a directory."""

    path: str
    before: FileState
    after: FileState
    number: int = 0
    """Names the staged files: ``NUMBER.old`` and ``NUMBER.new``."""


class Commands(Struct, frozen=True, tag="systemctl"):
    """A step that calls systemctl, once with each of these lists of words."""

    commands: tuple[tuple[str, ...], ...]
    wanted: str
    """What they are for, as an infinitive."""


class Check(Struct, frozen=True, tag="check"):
    """A step that has to succeed, and that leaves nothing to undo."""

    name: str
    wanted: str


Step = Change | Commands | Check


class Phase(Struct, frozen=True):
    """Steps that are undone together."""

    name: str
    steps: tuple[Step, ...]
    undo_first: tuple[tuple[str, ...], ...] = ()
    """Calls of systemctl before the files are put back, if a step with commands has begun."""
    undo_last: tuple[tuple[str, ...], ...] = ()
    """The same after that."""


class Installation(Struct, frozen=True):
    """What an installation is about."""

    version: str
    layout: str
    unit: str
    """The service that runs the kubelet."""
    endpoint: str
    """Where clients find criproxy."""
    runtime: str
    """Where criproxy finds the runtime."""
    config: str
    program: str
    moved: bool = True
    """Whether the kubelet was pointed elsewhere before."""
    ran_before: bool = False
    """Whether a criproxy ran already, so that it is not stopped."""
    health: str = ""
    """The URL of the kubelet's healthz; empty if it serves none."""


class Transaction(Struct, frozen=True):
    """A plan: from one state of the node to another."""

    command: str
    """``install`` or ``uninstall``."""
    installation: Installation
    phases: tuple[Phase, ...]
    created: str = ""
    left: tuple[str, ...] = ()
    """Files of an earlier installation that stay as they are and are no longer kept track of."""
    format: int = _FORMAT

    @property
    def steps(self) -> list[Step]:
        """The steps of all phases in order."""
        return [step for phase in self.phases for step in phase.steps]

    @property
    def changes(self) -> list[Change]:
        """The steps that change files."""
        return [step for step in self.steps if isinstance(step, Change)]


class Replaced(Struct, frozen=True):
    """A file that an installation has changed."""

    path: str
    original: FileState
    installed: FileState
    phase: str
    """The phase whose step has changed it."""
    saved: str = ""
    """The name of the original in ``originals/``; empty if there was none."""


class Manifest(Struct, frozen=True):
    """A complete installation."""

    installation: Installation
    files: tuple[Replaced, ...]
    created: str = ""
    format: int = _FORMAT

    def of(self, path: str) -> Replaced | None:
        """Return what was replaced at a path."""
        return next((each for each in self.files if each.path == path), None)


_T = TypeVar("_T", Transaction, Manifest)


class Journal:
    """The journal of a tree."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.directory = tree.host(tree.real(DIRECTORY))
        self._pending = self.directory / "pending.json"
        self._installed = self.directory / "installed.json"
        self._progress = self.directory / "progress"
        self._staged = self.directory / "staged"
        self._originals = self.directory / "originals"

    def pending(self) -> Transaction | None:
        """Return the transaction that was begun and has not ended. Raises UnavailableError."""
        return self._load(self._pending, Transaction)

    def installed(self) -> Manifest | None:
        """Return the installation. Raises UnavailableError if its file is damaged."""
        return self._load(self._installed, Manifest)

    def original(self, replaced: Replaced) -> Path:
        """Return the file that has the original."""
        return self._originals / replaced.saved

    def old(self, change: Change) -> Path:
        """Return the staged file that is as it was before."""
        return self._staged / f"{change.number}.old"

    def new(self, change: Change) -> Path:
        """Return the staged file that takes its place."""
        return self._staged / f"{change.number}.new"

    def prepare(self, transaction: Transaction, contents: dict[str, bytes | Path]) -> None:
        """Have all that a transaction needs on disk. Nothing is left of it when that fails.

        ``contents`` are the new files by their paths: the bytes, or a file to copy.
        Raises UnavailableError if a file is no longer as the plan has it, and OSError.
        """
        made = [each for each in self._parents() if not each.exists()]
        try:
            for each in reversed(made):
                each.mkdir(mode=0o755)
                sync_directory(each.parent)
            self.directory.chmod(0o700)
            shutil.rmtree(self._staged, ignore_errors=True)
            self._staged.mkdir(mode=0o700)
            for change in transaction.changes:
                self._stage(change, contents.get(change.path))
            sync_directory(self._staged)
            _write(self._progress, _number(0))
            _write(self._pending, _encoded(transaction))
        except BaseException:
            self._pending.unlink(missing_ok=True)
            self.tidy()
            raise

    def begun(self) -> int:
        """Return how many steps of the pending transaction have begun.

        Raises IncompleteError if the file that has it is damaged.
        """
        try:
            with open_at_once(self._progress) as opened:
                return int(opened.read())
        except (OSError, ValueError) as error:
            raise IncompleteError(
                f"{self._progress} cannot be read ({error}): how far the run came is not known; "
                f"{self._staged} has each file before and after, and {self._pending} their paths"
            ) from error

    def begin(self, count: int) -> None:
        """Keep that so many steps have begun."""
        descriptor = os.open(self._progress, os.O_WRONLY)
        try:
            os.pwrite(descriptor, _number(count), 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def complete(self, transaction: Transaction) -> bool:
        """Return whether all steps were done, so that the transaction can only be committed."""
        return self.begun() > len(transaction.steps)

    def commit(self, transaction: Transaction, created: str) -> None:
        """End a transaction whose steps are done. May be called again if it was interrupted."""
        self.begin(len(transaction.steps) + 1)
        if transaction.command == "install":
            self._originals.mkdir(mode=0o700, exist_ok=True)
            files = tuple(self._replaced(transaction))
            sync_directory(self._originals)
            manifest = Manifest(transaction.installation, files, created)
            _write(self._installed, _encoded(manifest))
        else:
            self._installed.unlink(missing_ok=True)
            shutil.rmtree(self._originals, ignore_errors=True)
        self._pending.unlink()
        sync_directory(self.directory)
        self.tidy()

    def close(self) -> None:
        """End a transaction that has been undone."""
        self._pending.unlink()
        sync_directory(self.directory)
        self.tidy()

    def tidy(self) -> None:
        """Remove what no transaction and no installation needs."""
        if self._pending.exists():
            return
        shutil.rmtree(self._staged, ignore_errors=True)
        self._progress.unlink(missing_ok=True)
        if not self._installed.exists():
            shutil.rmtree(self._originals, ignore_errors=True)
            for each in self._parents():
                with suppress(OSError):  # it has something else in it
                    each.rmdir()
                if each.name == "criproxy":
                    break

    def _parents(self) -> Iterator[Path]:
        """Yield the journal's directory and those above it within the tree."""
        for each in (self.directory, *self.directory.parents):
            if each == self._tree.root:
                break
            yield each

    def _stage(self, change: Change, content: bytes | Path | None) -> None:
        if change.before.kind in ("file", "link"):
            copy(self._tree.host(change.path), self.old(change))
        if self._tree.state(change.path) != change.before:
            raise UnavailableError(f"{change.path} was changed meanwhile; run it again")
        new, after = self.new(change), change.after
        if after.kind == "link":
            new.symlink_to(after.content)
        elif after.kind == "file":
            assert content is not None
            new.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
            if change.before.kind == "file":
                copy_attributes(self.old(change), new)
                os.utime(new)
            with new.open("rb") as file:
                os.fsync(file.fileno())
        if after.kind in ("file", "link"):
            if isinstance(content, Path):
                copy_attributes(content, new)
            os.chown(new, after.uid, after.gid, follow_symlinks=False)
            if after.kind == "file":
                new.chmod(after.mode)

    def _replaced(self, transaction: Transaction) -> Iterator[Replaced]:
        """Yield the files of the installation after this transaction, and keep their originals."""
        earlier = self.installed()
        entries = {each.path: each for each in (earlier.files if earlier is not None else ())}
        for path in transaction.left:
            entries.pop(path, None)
        for phase in transaction.phases:
            for change in phase.steps:
                if isinstance(change, Change):
                    known = entries.get(change.path)
                    if known is not None and change.after == known.installed:
                        continue  # before an interruption
                    entries[change.path] = self._entry(change, phase.name, known)
        yield from entries.values()

    def _entry(self, change: Change, phase: str, known: Replaced | None) -> Replaced:
        """Return what is kept of a change.

        The original remains that of the first installation, unless the file was changed since.
        """
        if known is not None and change.before == known.installed:
            return Replaced(change.path, known.original, change.after, phase, known.saved)
        saved = ""
        if change.before.kind in ("file", "link"):
            saved = change.path.strip("/").replace("_", "__").replace("/", "_")
            with suppress(FileNotFoundError):  # it was moved before an interruption
                os.rename(self.old(change), self._originals / saved)
        return Replaced(change.path, change.before, change.after, phase, saved)

    def _load(self, file: Path, kind: type[_T]) -> _T | None:
        try:
            with open_at_once(file) as opened:
                found = msgspec.json.decode(opened.read(), type=kind)
        except FileNotFoundError:
            return None
        except PermissionError:
            raise UnavailableError(f"{file} may not be read by this user; run it as root") from None
        except (msgspec.MsgspecError, OSError) as error:
            raise UnavailableError(
                f"{file} cannot be read ({error}); the files beside it are what was there before"
            ) from error
        if found.format != _FORMAT:
            raise UnavailableError(f"{file} is of another version; use the criproxy that wrote it")
        return found


def _encoded(value: Transaction | Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _number(count: int) -> bytes:
    return f"{count:{_WIDTH}}\n".encode()


def _write(file: Path, content: bytes) -> None:
    """Write a file in one step, and have it on disk."""
    temporary = file.with_name(f".{file.name}")
    with temporary.open("wb") as written:
        os.fchmod(written.fileno(), 0o600)
        written.write(content)
        written.flush()
        os.fsync(written.fileno())
    os.rename(temporary, file)
    sync_directory(file.parent)
