"""A transaction with what a user wants to see of it, and what it needs to be carried out."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from criproxy.install.journal import Change, Transaction
from criproxy.install.tree import Tree

RELOAD: Final = ("daemon-reload",)
"""The words of systemctl after a unit's file was changed."""


@dataclass(frozen=True)
class Plan:
    """What is to be done."""

    transaction: Transaction
    contents: Mapping[str, bytes | Path] = field(default_factory=dict)
    """The new files by their paths."""
    notes: tuple[str, ...] = ()
    """What the user should know."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.transaction.phases or self.transaction.left)

    def diff(self, tree: Tree, change: Change) -> str:
        """Return a unified diff of a file; empty for other changes, and for what is no text."""
        old = tree.read(change.path) if change.before.kind == "file" else b""
        new = self.contents.get(change.path, b"")
        if isinstance(new, Path):
            new = new.read_bytes() if change.after.kind == "file" else b""
        try:
            before, after = (each.decode().splitlines(keepends=True) for each in (old, new))
        except UnicodeDecodeError:
            return ""
        old_name, new_name = (
            change.path if each.kind == "file" else "/dev/null"
            for each in (change.before, change.after)
        )
        lines = difflib.unified_diff(before, after, old_name, new_name)
        return "".join(each if each.endswith("\n") else f"{each}\n" for each in lines)
