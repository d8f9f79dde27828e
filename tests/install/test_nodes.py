"""Installing on a node with processes: the embedded runtime, criproxy, and a stand-in kubelet."""

import json
import random
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner

from criproxy import __version__
from criproxy.cli import cli
from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.errors import CriproxyError
from tests.install import chroot
from tests.install.trees import CONTAINERD, CRIO, PROGRAM, TREES, NodeTree, tree_of
from tests.support.raw_sockets import listening_pid
from tests.support.waiting import LIMIT_SECONDS, wait_until

SHOW = ("show", "--property=MainPID", "--value")
LAYOUTS = ("kubeadm, flag", "kubeadm, CRI-O", "k3s", "RKE2", "k0s", "MicroK8s")
"""One of each distribution; the others differ in files alone."""


class RunningNode:
    """A tree with a runtime, a kubelet and a systemctl of its own."""

    def __init__(self, layout: str, directory: Path) -> None:
        self.tree: NodeTree = tree_of(layout, directory / "r", _free_port())
        self.directory = directory / "s"
        self.directory.mkdir()
        self.chroot = directory / "chroot"
        self.chroot.write_text(
            f"#!/bin/sh\nexec {sys.executable} -m tests.install.chroot {self.directory} "
            f'{self.tree.root} "$@"\n'
        )
        self.chroot.chmod(0o755)
        self.runtime = f"{self.tree.root}{TREES[layout][1]}"
        Path(self.runtime).parent.mkdir(parents=True)
        unit = next(iter((self.tree.root / "etc/systemd/system/multi-user.target.wants").iterdir()))
        self.unit = unit.name

    def call(self, *words: str) -> str:
        """Call systemctl."""
        command = [self.chroot, "systemctl", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def arguments(self, command: str, *options: str) -> list[str]:
        """Return the command line of criproxy."""
        words = [command, "--root", str(self.tree.root)]
        words += ["--systemctl", f"{self.chroot} systemctl", "--yes", "-o", "json"]
        words += ["--timeout", f"{LIMIT_SECONDS:g}s"]
        return [*words, *(["--program", PROGRAM] if command == "install" else []), *options]

    def run(self, command: str, *options: str) -> tuple[int, dict[str, Any]]:
        """Run criproxy; return the exit status and what it printed."""
        done = CliRunner().invoke(cli, self.arguments(command, *options))
        error = done.exception
        status = error.exit_code if isinstance(error, CriproxyError) else done.exit_code
        return status, json.loads(done.stdout)

    def kubelet_at(self) -> str:
        """Return the socket that the running kubelet calls, within the tree; empty if none runs."""
        pid = self.call(*SHOW, self.unit)
        lines = (self.directory / f"{self.unit}.log").read_text().splitlines()
        found = f"kubelet {pid} at {self.tree.root}"
        return next((each.removeprefix(found) for each in lines if each.startswith(found)), "")

    def wait_for_kubelet(self, path: str) -> None:
        """Wait until the kubelet runs with a socket."""
        wait_until(lambda: self.kubelet_at() == path, f"kubelet at {path}")

    def snapshot(self) -> dict[str, Any]:
        """Return all files but those of /run, without sockets."""
        return {
            path: row
            for path, row in self.tree.snapshot().items()
            if path.partition("/")[0] != "run" and not stat.S_ISSOCK(int(str(row[0])))
        }


def _free_port() -> int:
    """Return a free port that the kernel gives to nobody who asks for any."""
    for port in random.sample(range(20_000, 30_000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


@contextmanager
def running(layout: str, directory: Path) -> Iterator[RunningNode]:
    """Have a node whose kubelet runs."""
    node = RunningNode(layout, directory)
    with EmbeddedRuntime(f"unix://{node.runtime}", pods=2):
        try:
            node.call("start", node.unit)
            node.wait_for_kubelet(TREES[layout][1])
            yield node
        finally:
            chroot.stop_all(node.directory)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back(layout: str, short_dir: Path) -> None:
    """The kubelet calls criproxy after install, and the runtime after uninstall."""
    with running(layout, short_dir) as node:
        before = node.snapshot()
        status, answer = node.run("install")
        assert (status, answer["outcome"]) == (0, "installed")
        node.wait_for_kubelet(answer["endpoint"].removeprefix("unix://"))
        status, answer = node.run("uninstall")
        assert (status, answer["outcome"]) == (0, "uninstalled")
        node.wait_for_kubelet(TREES[layout][1])
        assert node.call(*SHOW, "criproxy.service") == "0"
        assert node.snapshot() == before


def test_kubelet_runs_with_other_files(short_dir: Path) -> None:
    """If the kubelet was started with another runtime than its files name by now, nothing is
    moved: the two have to agree first."""
    with running("kubeadm, flag", short_dir) as node:
        flags = "/var/lib/kubelet/kubeadm-flags.env"
        node.tree.file(flags, node.tree.text(flags).replace(f"/var{CONTAINERD}", CRIO), 0o600)
        before = node.snapshot()
        other = f"{node.tree.root}{CRIO}"
        Path(other).parent.mkdir()
        with EmbeddedRuntime(f"unix://{other}"):
            status, answer = node.run("install")
            assert status == 1
            assert (
                f"runs with {node.runtime}, and its files point it at unix://{other}"
                in (answer["error"])
            )
            assert node.snapshot() == before
            node.call("restart", node.unit)
            node.wait_for_kubelet(CRIO)
            assert node.run("install")[0] == 0


def test_criproxy_is_stopped_and_gone(short_dir: Path) -> None:
    """It is uninstalled also if criproxy does not run and its program was removed."""
    with running("kubeadm, flag", short_dir) as node:
        before = node.snapshot()
        node.run("install")
        node.call("stop", "criproxy.service")
        (node.tree.root / PROGRAM[1:]).unlink()
        status, _ = node.run("uninstall")
        assert status == 0
        node.wait_for_kubelet(CONTAINERD)
        assert node.snapshot() == {each: before[each] for each in before if each != PROGRAM[1:]}


def test_kubelet_does_not_come_back(short_dir: Path) -> None:
    """If the kubelet is not healthy behind criproxy in time, it is put back."""
    with running("kubeadm, flag", short_dir) as node:
        (node.tree.root / "sick").touch()
        before = node.snapshot()
        status, answer = node.run("install", "--timeout", "100ms")
        assert (status, answer["outcome"]) == (1, "failed")
        assert answer["error"].startswith("the kubelet is not healthy at http://127.0.0.1:")
        assert answer["error"].endswith("; everything is as it was before")
        node.wait_for_kubelet(CONTAINERD)
        assert node.snapshot() == before


def test_what_cannot_be_undone(short_dir: Path) -> None:
    """Status 3 says that the services are not as they were; the next run can put that right."""
    with running("kubeadm, flag", short_dir) as node:
        before = node.snapshot()
        (node.directory / "fail").write_text("restart kubelet.service")
        status, answer = node.run("install")
        assert status == 3
        assert "criproxy install --resume undo" in answer["error"]
        (node.directory / "fail").unlink()
        status, answer = node.run("install", "--resume", "undo")
        assert (status, answer["outcome"]) == (0, "undone")
        node.wait_for_kubelet(CONTAINERD)
        assert node.snapshot() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_signals(number: signal.Signals, short_dir: Path) -> None:
    """A signal has everything put back; after SIGKILL the next run does so."""
    with running("kubeadm, flag", short_dir) as node:
        (node.tree.root / "sick").touch()
        before = node.snapshot()
        process = subprocess.Popen(
            [sys.executable, "-m", "criproxy", *node.arguments("install")],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        node.wait_for_kubelet("/run/criproxy/criproxy.sock")
        process.send_signal(number)
        output, _ = process.communicate(timeout=LIMIT_SECONDS)
        if number == signal.SIGKILL:
            status, answer = node.run("install", "--dry-run")
            assert (status, answer["outcome"]) == (1, "failed")
            assert "was interrupted" in answer["error"]
            status, answer = node.run("uninstall", "--resume", "undo")
            assert (status, answer["outcome"]) == (0, "undone")
        else:
            assert process.returncode == 1
            assert json.loads(output)["error"] == (
                f"interrupted by {number.name}; everything is as it was before"
            )
        node.wait_for_kubelet(CONTAINERD)
        assert node.snapshot() == before


def test_newer_version_over_an_older_one(short_dir: Path) -> None:
    """Installing a newer version replaces the running criproxy: no call is lost, and the kubelet is
    not restarted."""
    with running("kubeadm, flag", short_dir) as node:
        node.run("install")
        manifest = node.tree.root / "var/lib/criproxy/install/installed.json"
        manifest.write_text(manifest.read_text().replace(f'"{__version__}"', '"0.0.1"'))
        socket_path = f"{node.tree.root}/run/criproxy/criproxy.sock"
        before, kubelet = listening_pid(Path(socket_path)), node.call(*SHOW, node.unit)
        ended, failures = threading.Event(), []

        def call() -> None:
            with CriClient(socket_path, timeout=LIMIT_SECONDS) as client:
                while not ended.is_set():
                    try:
                        client.Version()
                    except grpc.RpcError as error:
                        failures.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        try:
            status, answer = node.run("install")
        finally:
            ended.set()
            caller.join()
        assert (status, answer["outcome"]) == (0, "installed")
        assert failures == []
        assert listening_pid(Path(socket_path)) != before
        assert node.call(*SHOW, node.unit) == kubelet
        assert f'"{__version__}"' in manifest.read_text()
