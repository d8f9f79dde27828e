"""Collects the changes of a transaction, with the directories that they need."""

import os
from pathlib import PurePosixPath
from typing import Final

from criproxy.install.journal import Change
from criproxy.install.tree import FileState, Tree, digest

_FILE_MODE: Final = 0o644
_DIRECTORY_MODE: Final = 0o755


class Changes:
    """The changes of one transaction; files that are as they should be are none."""

    def __init__(self, tree: Tree) -> None:
        self.contents: dict[str, bytes] = {}
        self._tree = tree
        self._planned: dict[str, FileState] = {}

    def write(self, path: str, text: str) -> list[Change]:
        """Return the changes that write a file; one that is there keeps its mode and owner."""
        real = self._tree.real(path)
        before = self._tree.state(real)
        content = text.encode()
        if before.kind == "file":
            after = FileState("file", before.mode, before.uid, before.gid, digest(content))
        else:
            after = FileState("file", _FILE_MODE, *self._owner(), digest(content))
        if after == before:
            return []
        self.contents[real] = content
        return self._change(real, before, after)

    def link(self, path: str, target: str) -> list[Change]:
        """Return the changes that make a symbolic link; what is there stays."""
        parent, _, name = path.rpartition("/")
        real = f"{self._tree.real(parent)}/{name}"
        before = self._tree.state(real)
        if before.kind != "absent":
            return []
        return self._change(real, before, FileState("link", 0, *self._owner(), target))

    def _change(self, real: str, before: FileState, after: FileState) -> list[Change]:
        self._tree.check_writable(real)
        directories = [
            self._add(str(parent), self._tree.state(str(parent)), self._directory())
            for parent in reversed(PurePosixPath(real).parents)
            if str(parent) not in self._planned and self._tree.state(str(parent)).kind == "absent"
        ]
        return [*directories, self._add(real, before, after)]

    def _add(self, path: str, before: FileState, after: FileState) -> Change:
        self._planned[path] = after
        return Change(path, before, after, len(self._planned))

    def _directory(self) -> FileState:
        return FileState("directory", _DIRECTORY_MODE, *self._owner())

    def _owner(self) -> tuple[int, int]:
        return os.geteuid(), os.getegid()
