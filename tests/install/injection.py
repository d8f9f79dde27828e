"""Lets each step of installing and of uninstalling fail, and looks at the tree afterwards.

The files, the journal and the engine are the real ones. systemd is a stand-in that knows which
units run, and with which endpoint the kubelet was started last.
"""

import errno
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from criproxy.errors import UnavailableError
from criproxy.install.engine import describe
from criproxy.install.journal import Installation
from criproxy.install.layouts.find import find_layout
from criproxy.install.layouts.setup import endpoint_of
from criproxy.install.operation import Operation
from criproxy.install.planning.install import Wanted
from criproxy.install.planning.plan import Plan
from criproxy.install.services import Systemd
from criproxy.install.tree import FileState, Tree, copy, temporary_of
from tests.install.trees import PROGRAM, NodeTree, tree_of

AS_BEFORE: Final = "as before"
DONE: Final = "done"


class Killed(BaseException):
    """The end of the process: nothing of it is executed afterwards."""


FAILURES: Final[Mapping[str, Callable[[], BaseException]]] = {
    "the step fails": lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "Ctrl-C": KeyboardInterrupt,
    "killed, then undo": Killed,
    "killed, then finish": Killed,
}
"""What happens in a step. A change of a file fails half-way, for want of space on the disk."""


class FaultyTree(Tree):
    """A tree in which changing a file may fail."""

    fault: BaseException | None = None

    def put(self, path: str, source: Path, state: FileState) -> None:
        """Fail after half of the work if that is asked for."""
        fault, self.fault = self.fault, None
        if fault is None or isinstance(fault, KeyboardInterrupt):
            super().put(path, source, state)
        elif state.kind in ("file", "link"):
            copy(source, temporary_of(self.host(path)))
        if fault is not None:
            raise fault


class StandIn(Systemd):
    """A systemd without processes."""

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        self.fault: BaseException | None = None
        self.running: set[str] = set()
        self.kubelet = ""
        """The endpoint that the kubelet was started with."""
        self._tree = tree

    def main_pid(self, unit: str) -> int:
        """Return 1 for a unit that runs."""
        return int(unit in self.running)

    def call(self, *words: str) -> str:
        """Do what systemctl would do, then fail if that is asked for."""
        match words:
            case ("start", unit):
                self.running.add(unit)
            case ("stop", unit):
                self.running.discard(unit)
            case ("restart", "criproxy.service"):
                pass
            case ("restart", unit):
                setting = find_layout(self._tree, unit).setup().runtime
                self.kubelet = endpoint_of(setting).path
        fault, self.fault = self.fault, None
        if isinstance(fault, OSError):
            raise UnavailableError(f"systemctl {' '.join(words)}: failed")
        if fault is not None:
            raise fault
        return ""


class _Checked(Operation):
    """An operation whose checks look at the stand-in."""

    fault: BaseException | None = None

    def _checks(self, about: Installation) -> Mapping[str, Callable[[], None]]:
        real = super()._checks(about)
        services: StandIn = self.systemd  # type: ignore[assignment]

        def proxy() -> None:
            if "criproxy.service" not in services.running:
                raise UnavailableError("criproxy does not run")

        def kubelet() -> None:
            if services.kubelet == about.endpoint:
                proxy()

        def checked(check: Callable[[], None]) -> Callable[[], None]:
            def call() -> None:
                check()
                fault, self.fault = self.fault, None
                if isinstance(fault, OSError):
                    raise UnavailableError("the check fails")
                if fault is not None:
                    raise fault

            return call

        found = {
            "agrees": lambda: None,
            "configured": real["configured"],
            "released": real["released"],
            "proxy": proxy,
            "upgrade": lambda: None,
            "healthy": kubelet,
            "connected": kubelet,
        }
        return {name: checked(check) for name, check in found.items()}


@dataclass
class Node:
    """A tree with its systemd, before or after an installation."""

    tree: NodeTree
    faulty: FaultyTree = field(init=False)
    systemd: StandIn = field(init=False)

    def __post_init__(self) -> None:
        self.faulty = FaultyTree(self.tree.root)
        self.systemd = StandIn(self.faulty)
        self.systemd.call("restart", find_layout(self.faulty).unit)

    def state(self) -> tuple[object, ...]:
        """Return everything that has to be as it was."""
        return (
            tuple(self.tree.installed_snapshot().items()),
            (self.tree.root / "var/lib/criproxy/install/pending.json").exists(),
            (self.tree.root / "var/lib/criproxy/install/staged").exists(),
            frozenset(self.systemd.running),
            self.systemd.kubelet,
        )

    def operation(self, step: int = 0, fault: BaseException | None = None) -> Operation:
        """Return an operation whose step of that number fails."""
        begun = 0

        def notify(kind: str, _: str) -> None:
            nonlocal begun
            begun += kind == "do"
            if kind == "do" and begun == step:
                self.faulty.fault = self.systemd.fault = operation.fault = fault
            else:
                self.faulty.fault = self.systemd.fault = operation.fault = None

        operation = _Checked(self.faulty, self.systemd, notify=notify)
        return operation

    def plan(self, command: str) -> Plan:
        """Plan an installation or a removal."""
        operation = self.operation()
        if command == "install":
            return operation.plan_install(Wanted(PROGRAM, services=True))
        manifest = operation.installed()
        assert manifest is not None
        return operation.plan_uninstall(manifest)

    def do(self, command: str) -> None:
        """Do all of it."""
        self.operation().carry_out(self.plan(command))


class Injection:
    """A command on a layout, of which any step can be made to fail."""

    def __init__(self, layout: str, command: str, directory: Path) -> None:
        """``directory`` is empty."""
        self._directory = directory
        self._numbers = itertools.count()
        self._first = Node(tree_of(layout, directory / "first"))
        if command == "uninstall":
            self._first.do("install")
        self._plan = self._first.plan(command)
        self._before = self._first.state()
        done = self._copy()
        done.operation().carry_out(self._plan)
        self._done = done.state()
        self._node = self._copy()

    @property
    def steps(self) -> list[str]:
        """The steps of the command."""
        return [describe(step) for step in self._plan.transaction.steps]

    def outcome(self, step: int, failure: str) -> str:
        """Let a step fail, from 1; return what the tree and the services are afterwards."""
        if self._node.state() != self._before:
            self._node = self._copy()
        node = self._node
        try:
            node.operation(step, FAILURES[failure]()).carry_out(self._plan)
        except (UnavailableError, KeyboardInterrupt, Killed):
            pass
        else:
            return "no failure"
        pending = node.operation().pending()
        if failure == "killed, then finish" and pending is not None:
            node.operation().finish(pending)
        elif failure == "killed, then undo" and pending is not None:
            node.operation().undo(pending)
        return {self._before: AS_BEFORE, self._done: DONE}.get(node.state(), "in between")

    def _copy(self) -> Node:
        root = self._directory / str(next(self._numbers))
        shutil.copytree(self._first.tree.root, root, symlinks=True)
        node = Node(NodeTree(root))
        node.systemd.running |= self._first.systemd.running
        return node


def rows(layout: str, command: str) -> list[tuple[str, ...]]:
    """Return for each step what it is and the outcome of each failure in it."""
    with (
        tempfile.TemporaryDirectory(prefix="crp-") as directory,
        pytest.MonkeyPatch.context() as patch,
    ):
        # What is on the disk after a power failure is not looked at, and a disk would take minutes.
        patch.setattr(os, "fsync", lambda descriptor: None)
        injection = Injection(layout, command, Path(directory))
        return [
            (step, *(injection.outcome(number, each) for each in FAILURES))
            for number, step in enumerate(injection.steps, 1)
        ]
