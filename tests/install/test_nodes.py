"""Installing on a node with processes: the embedded runtime, criproxy, and a stand-in kubelet."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from criproxy.embedded.background import EmbeddedRuntime
from tests.install import systemctl
from tests.install.trees import PROGRAM, TREES, NodeTree, tree_of
from tests.support.waiting import LIMIT_SECONDS, wait_until


class RunningNode:
    """A tree with a runtime, a kubelet and a systemctl of its own."""

    def __init__(self, layout: str, directory: Path) -> None:
        self.tree: NodeTree = tree_of(layout, directory / "r", _free_port())
        self.directory = directory / "s"
        self.directory.mkdir()
        self.systemctl = directory / "systemctl"
        self.systemctl.write_text(
            f"#!/bin/sh\nexec {sys.executable} -m tests.install.systemctl {self.directory} "
            f'{self.tree.root} "$@"\n'
        )
        self.systemctl.chmod(0o755)
        self.runtime = f"{self.tree.root}{TREES[layout][1]}"
        Path(self.runtime).parent.mkdir(parents=True)
        unit = next(iter((self.tree.root / "etc/systemd/system/multi-user.target.wants").iterdir()))
        self.unit = unit.name

    def call(self, *words: str) -> str:
        """Call systemctl."""
        done = subprocess.run([self.systemctl, *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def arguments(self, command: str, *options: str) -> list[str]:
        """Return the command line of criproxy."""
        words = [sys.executable, "-m", "criproxy", command, "--root", str(self.tree.root)]
        words += ["--systemctl", str(self.systemctl), "--yes", "-o", "json"]
        words += ["--timeout", f"{LIMIT_SECONDS:g}s"]
        return [*words, *(["--program", PROGRAM] if command == "install" else []), *options]

    def run(self, command: str, *options: str) -> tuple[int, dict[str, Any]]:
        """Run criproxy; return the exit status and what it printed."""
        done = subprocess.run(
            self.arguments(command, *options), capture_output=True, text=True, check=False
        )
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def kubelet_at(self) -> str:
        """Return the socket that the running kubelet calls, within the tree; empty if none runs."""
        if self.call("show", "--property=MainPID", "--value", self.unit) == "0":
            return ""
        lines = (self.directory / f"{self.unit}.log").read_text().splitlines()
        return lines[-1].partition(f" at {self.tree.root}")[2]

    def calls(self) -> list[str]:
        """Return how systemctl was called."""
        return (self.directory / "calls").read_text().splitlines()

    def snapshot(self) -> dict[str, Any]:
        """Return all files but those of /run, without sockets."""
        return {
            path: row
            for path, row in self.tree.snapshot().items()
            if path.partition("/")[0] != "run" and not stat.S_ISSOCK(int(str(row[0])))
        }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(layout: str, directory: Path) -> Iterator[RunningNode]:
    """Have a node whose kubelet runs."""
    node = RunningNode(layout, directory)
    with EmbeddedRuntime(f"unix://{node.runtime}", pods=2):
        try:
            node.call("start", node.unit)
            wait_until(node.kubelet_at, "running kubelet")
            yield node
        finally:
            systemctl.stop_all(node.directory)


@pytest.mark.parametrize("layout", TREES)
def test_there_and_back(layout: str, short_dir: Path) -> None:
    """The kubelet calls criproxy after install, and the runtime after uninstall."""
    with running(layout, short_dir) as node:
        before = node.snapshot()
        status, answer = node.run("install")
        assert (status, answer["outcome"]) == (0, "installed")
        assert f"unix://{node.kubelet_at()}" == answer["endpoint"]
        assert node.calls()[-1].startswith("show")
        status, answer = node.run("uninstall")
        assert (status, answer["outcome"]) == (0, "uninstalled")
        assert node.kubelet_at() == TREES[layout][1]
        assert node.call("show", "--property=MainPID", "--value", "criproxy.service") == "0"
        assert node.snapshot() == before
