"""Reads the configuration files of a process, as the process sees them.

A file that was changed after the process started does not tell what the process runs with.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from criproxy.common.opening import open_at_once
from criproxy.doctor.node.system import System

_MAX_BYTES: Final = 1 << 20
"""Maximum number of bytes read of a configuration file."""


class UndeterminedError(Exception):
    """The configuration of a process cannot be determined: why, and what would help."""

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(why)
        self.remedy = remedy


class ProcessFiles:
    """The files of a process."""

    def __init__(self, system: System, pid: int, *, read_at_start: bool = True) -> None:
        """``read_at_start``: whether the process has read them, so that a later change counts."""
        self.system = system
        self.pid = pid
        self._started = system.started(pid) if read_at_start else None

    def path(self, path: str) -> Path:
        """Return where to read a path of the process, which may run in a container."""
        own = self.system.link(self.pid, "root")
        in_container = self.system.process(self.pid).cgroup.container is not None
        if not path.startswith("/"):
            path = f"{self.system.link(self.pid, 'cwd') or '/'}/{path}"
        if own not in (None, "/") or in_container:
            return self.system.proc / str(self.pid) / "root" / path.lstrip("/")
        return self.system.path(path)

    def shown(self, file: Path) -> str:
        """Return a file's path as the process sees it."""
        for root in (self.system.proc / str(self.pid) / "root", self.system.root):
            if file.is_relative_to(root):
                return f"/{file.relative_to(root)}"
        return str(file)

    def text(self, file: Path) -> str:
        """Read a file. Raises UndeterminedError if it cannot be read or was changed since."""
        shown = self.shown(file)
        try:
            with open_at_once(file) as opened:
                changed = os.fstat(opened.fileno()).st_mtime
                text = opened.read(_MAX_BYTES).decode(errors="replace")
        except OSError as error:
            why = f"{shown} cannot be read: {error.strerror}"
            raise UndeterminedError(why, "run it as root on the node itself") from error
        if self._started is not None and changed > self._started + 1:
            raise UndeterminedError(f"{shown} was changed after it started", "restart it")
        return text

    def mapping(self, file: Path) -> Mapping[str, Any]:
        """Read a YAML file. Raises as :meth:`text` does, and for one that is no YAML."""
        try:
            content = yaml.safe_load(self.text(file))
        except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
            shown = self.shown(file)
            raise UndeterminedError(f"{shown} is no YAML", "correct the file") from error
        return content if isinstance(content, dict) else {}

    def drop_ins(self, directory: Path, *suffixes: str) -> Iterator[Path]:
        """Yield a directory's files in lexical order, with those of its directories.

        Raises UndeterminedError if it cannot be read.
        """
        try:
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError as error:
            why = f"{self.shown(directory)} cannot be read: {error.strerror}"
            raise UndeterminedError(why, "run it as root on the node itself") from error
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from self.drop_ins(Path(entry.path), *suffixes)
            elif entry.name.endswith(suffixes):
                yield Path(entry.path)
