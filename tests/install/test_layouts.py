"""Installing into the tree of each layout, and taking it out again: the files alone."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from criproxy.cli.node.install import command as install
from criproxy.cli.node.uninstall import command as uninstall
from criproxy.config.load import parse
from tests.install.trees import CRIO, PROGRAM, TREES, NodeTree, tree_of

SOCKET = "unix:///run/criproxy/criproxy.sock"
FLAG = f"--container-runtime-endpoint={SOCKET}"
SYSTEM = "/etc/systemd/system"

CHANGED = {
    "kubeadm, flag": {
        "/var/lib/kubelet/kubeadm-flags.env": f'KUBELET_KUBEADM_ARGS="{FLAG} --node-ip=10.0.0.7"\n',
        "/etc/crictl.yaml": f"runtime-endpoint: {SOCKET}\n",
    },
    "kubeadm, instance-config.yaml": {
        "/var/lib/kubelet/instance-config.yaml": (
            "apiVersion: kubelet.config.k8s.io/v1beta1\n"
            f"containerRuntimeEndpoint: {SOCKET}\n"
            "kind: KubeletConfiguration\n"
        ),
        "/etc/crictl.yaml": (
            f"# mine\nruntime-endpoint: {SOCKET}\nimage-endpoint: {SOCKET}\ntimeout: 10\n"
        ),
    },
    "k3s": {
        "/etc/rancher/k3s/config.yaml.d/zz-criproxy.yaml": (
            "# Written by criproxy install.\nkubelet-arg+:\n"
            f"- container-runtime-endpoint={SOCKET}\n"
        ),
    },
    "RKE2": {
        "/etc/rancher/rke2/config.yaml.d/zz-criproxy.yaml": (
            "# Written by criproxy install.\nkubelet-arg+:\n"
            f"- container-runtime-endpoint={SOCKET}\n"
        ),
    },
    "systemd drop-in": {
        f"{SYSTEM}/kubelet.service.d/20-runtime.conf": (
            f'[Service]\nEnvironment="RUNTIME={FLAG}"\nEnvironment="HEALTH=--healthz-port=10248"\n'
        ),
    },
}
"""What becomes of files."""

COMMANDS = {
    "k0s": (
        "k0sworker.service",
        "/usr/local/bin/k0s worker --token-file=/etc/k0s/token "
        '--kubelet-extra-args="--healthz-port=10248" '
        f'"--kubelet-extra-args=--healthz-port=10248 {FLAG}"',
    ),
    "unit of a package": (
        "kubelet.service",
        "/usr/bin/kubelet --container-runtime-endpoint=unix:///run/containerd/containerd.sock "
        f"--healthz-port=10248 {FLAG}",
    ),
}
"""What becomes of commands."""


def run(command: Any, tree: NodeTree, *options: str) -> dict[str, Any]:
    """Run a command on a tree and return what it prints."""
    arguments = ["--root", str(tree.root), "--yes", "-o", "json", *options]
    if command is install:
        arguments += ["--program", PROGRAM]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


@pytest.mark.parametrize("layout", TREES)
def test_there_and_back(layout: str, tmp_path: Path) -> None:
    """The kubelet is pointed at criproxy, and everything is as before afterwards: bytes, modes,
    owners and times."""
    tree = tree_of(layout, tmp_path)
    before = tree.snapshot()
    answer = run(install, tree)
    runtime = TREES[layout][1]
    assert answer["outcome"] == "installed"
    assert answer["runtime"] == f"unix://{runtime}"
    [listener] = parse(tree.text("/etc/criproxy/config.yaml"), "config").listeners
    assert str(listener.runtime) == answer["runtime"]
    assert str(listener.endpoint) == answer["endpoint"]
    for path, text in CHANGED.get(layout, {}).items():
        assert tree.text(path) == text
    for path in {"/" + each for each in before} & set(CHANGED.get(layout, {})):
        assert (tree.root / path[1:]).stat().st_mode == before[path[1:]][0]
    assert run(install, tree)["outcome"] == "unchanged"
    assert run(uninstall, tree)["outcome"] == "uninstalled"
    assert tree.snapshot() == before
    assert run(uninstall, tree)["outcome"] == "unchanged"


@pytest.mark.parametrize("layout", COMMANDS)
def test_command_in_a_drop_in(layout: str, tmp_path: Path) -> None:
    """Where neither a file nor a drop-in can have the flag, the unit's command is repeated."""
    tree = tree_of(layout, tmp_path)
    run(install, tree)
    unit, line = COMMANDS[layout]
    drop_in = tree.text(f"{SYSTEM}/{unit}.d/90-criproxy.conf")
    assert drop_in.splitlines()[-2:] == ["ExecStart=", f"ExecStart={line}"]


def test_dry_run_changes_nothing(tmp_path: Path) -> None:
    """--dry-run shows the plan with the diffs, and writes nothing."""
    tree = tree_of("kubeadm, flag", tmp_path)
    before = tree.snapshot()
    answer = run(install, tree, "--dry-run")
    assert answer["outcome"] == "planned"
    [diff] = [each["diff"] for each in answer["steps"] if each.get("path") == "/etc/crictl.yaml"]
    assert f"+runtime-endpoint: {SOCKET}" in diff
    assert tree.snapshot() == before


def test_path_in_front_of_crio(tmp_path: Path) -> None:
    """The path ends as CRI-O's, because the kubelet looks at that."""
    tree = tree_of("kubeadm, CRI-O", tmp_path)
    assert run(install, tree)["endpoint"] == f"unix:///run/criproxy{CRIO}"
    assert f"ListenStream=/run/criproxy{CRIO}\n" in tree.text(f"{SYSTEM}/criproxy.socket")


def test_links_lead_within_the_tree(tmp_path: Path) -> None:
    """An absolute link of a mounted tree leads to that tree's files, and stays a link."""
    tree = tree_of("kubeadm, CRI-O", tmp_path / "node")
    (tree.root / "data").mkdir()
    os.rename(tree.root / "var/lib/kubelet", tree.root / "data/kubelet")
    (tree.root / "var/lib/kubelet").symlink_to("/data/kubelet")
    before = tree.snapshot()
    run(install, tree)
    assert "criproxy" in tree.text("/data/kubelet/config.yaml")
    assert (tree.root / "var/lib/kubelet").is_symlink()
    run(uninstall, tree)
    assert tree.snapshot() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to have files of others")
def test_owners_are_kept(tmp_path: Path) -> None:
    """A file of another user stays that user's, and is so again afterwards."""
    tree = tree_of("kubeadm, CRI-O", tmp_path)
    file = tree.root / "etc/crictl.yaml"
    os.chown(file, 1234, 2345)
    file.chmod(0o604)
    before = tree.snapshot()
    run(install, tree)
    status = file.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (1234, 2345, 0o604)
    run(uninstall, tree)
    assert tree.snapshot() == before
