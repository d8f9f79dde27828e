"""What does not fit is one line that names it and the mend, and nothing is changed."""

import fcntl
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from criproxy.cli.node.install import command as install
from criproxy.cli.node.uninstall import command as uninstall
from criproxy.config.load import parse
from criproxy.errors import CriproxyError
from tests.install.injection import Killed, Node
from tests.install.trees import CONTAINERD, CRIO, PROGRAM, NodeTree, tree_of

CONFIG = "/etc/criproxy/config.yaml"
FLAGS = "/var/lib/kubelet/kubeadm-flags.env"
KUBELET = "/var/lib/kubelet/config.yaml"
INSTANCE = "/var/lib/kubelet/instance-config.yaml"
SOCKET = "unix:///run/criproxy/criproxy.sock"
KEY = "containerRuntimeEndpoint"


def run(command: Any, tree: NodeTree, *options: str) -> tuple[int, str]:
    """Run a command on a tree; return its exit status and its error or what it printed."""
    arguments = ["--root", str(tree.root), "--yes", *options]
    if command is install and "--program" not in options:
        arguments += ["--program", PROGRAM]
    result = CliRunner().invoke(command, arguments)
    if isinstance(result.exception, CriproxyError):
        return result.exception.exit_code, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def refused(command: Any, tree: NodeTree, *options: str) -> tuple[int, str]:
    """Run a command that has to fail and to change nothing."""
    before = tree.snapshot()
    status, error = run(command, tree, *options)
    assert status
    assert "\n" not in error
    assert tree.snapshot() == before
    return status, error


def _nothing(tree: NodeTree) -> None:
    (tree.root / "usr/lib/systemd/system/kubelet.service").unlink()


def _two(tree: NodeTree) -> None:
    unit = tree.text("/usr/lib/systemd/system/kubelet.service")
    tree.file("/etc/systemd/system/k3s.service", unit)
    tree.enable("k3s.service")


def _other_flag(tree: NodeTree) -> None:
    tree.file("/etc/default/kubelet", f"KUBELET_EXTRA_ARGS=--container-runtime-endpoint={CRIO}\n")


def _other_instance(tree: NodeTree) -> None:
    tree.file(INSTANCE, f"{KEY}: unix://{CRIO}\n")


def _broken(tree: NodeTree) -> None:
    tree.file(KUBELET, "a: 1\nb: [\n")


def _scoped_listener(tree: NodeTree) -> None:
    listener = f"{{endpoint: {SOCKET}, runtime: {CONTAINERD}, profile: read-only}}"
    tree.file(CONFIG, f"listeners: [{listener}]\n")


def _wrong_config(tree: NodeTree) -> None:
    tree.file(CONFIG, "listeners:\n- endpont: /x\n")


def _not_a_socket(tree: NodeTree) -> None:
    tree.file(FLAGS, 'KUBELET_KUBEADM_ARGS="--container-runtime-endpoint=tcp://1.2.3.4:5"\n')


def _masked(tree: NodeTree) -> None:
    os.mkfifo(tree.root / "etc/systemd/system/criproxy.service")


def _pointed_already(tree: NodeTree) -> None:
    tree.file(FLAGS, f'KUBELET_KUBEADM_ARGS="--container-runtime-endpoint={SOCKET}"\n')
    tree.file(CONFIG, f"listeners: [{{endpoint: {SOCKET}}}]\n")


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        (_nothing, [], "no kubelet is configured below"),
        (_two, [], "more than one kubelet: kubelet.service, k3s.service; choose one with"),
        (_other_flag, [], "/etc/default/kubelet is /run/crio/crio.sock; correct one, or name the"),
        (_other_instance, [], f"and {KEY} in {INSTANCE} is unix://{CRIO}; correct one, or name"),
        (_broken, [], f"{KUBELET}:3: not YAML; correct the file"),
        (_scoped_listener, [], f"{CONFIG} has no listener with the profile full in front of"),
        (_wrong_config, [], f"{CONFIG}:2: listeners[0].endpont: no such key; did you mean"),
        (_not_a_socket, [], f"--container-runtime-endpoint in {FLAGS}: endpoint 'tcp://1.2.3.4:5'"),
        (_masked, [], "criproxy.service is no regular file; remove it"),
        (_pointed_already, [], "name it with --runtime-endpoint"),
        (None, ["--kubelet-unit", "my.service"], "there is no my.service below"),
        (None, ["--program", "/home/me/criproxy"], "the service sees none of /home/"),
        (None, ["--program", "/usr/bin/criproxy"], "install the package there, or name its"),
        (None, ["--program", "criproxy"], "not an absolute path"),
        (None, ["--listen", f"unix://{CONTAINERD}"], "is the runtime's own socket"),
        (None, ["--runtime-endpoint", CRIO, "--listen", "/run/x.sock"], "the path has to end in"),
        (None, ["--timeout", "soon"], "--timeout: "),
        (None, ["--resume", "undo"], "--resume undo: no run was interrupted here"),
    ],
)
def test_what_does_not_fit(
    change: Callable[[NodeTree], None] | None, options: list[str], says: str, tmp_path: Path
) -> None:
    """Options and files that do not fit end with status 2."""
    tree = tree_of("kubeadm, flag", tmp_path)
    if change is not None:
        change(tree)
    status, error = refused(install, tree, *options)
    assert status == 2
    assert says in error


@pytest.mark.parametrize(
    "path",
    [
        "/etc/crictl.yaml",
        "/etc/default/kubelet",
        "/etc/systemd/system/kubelet.service.d/1.conf",
        "/var/lib/criproxy/install/pending.json",
        CONFIG,
        KUBELET,
    ],
)
def test_no_fifo_is_waited_for(path: str, tmp_path: Path) -> None:
    """A FIFO in the place of a file that is read is an error that names it."""
    tree = tree_of("kubeadm, flag", tmp_path)
    file = tree.root / path[1:]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    status, error = refused(install, tree)
    assert status == 1
    assert path in error
    assert "not a regular file" in error


@pytest.mark.parametrize("change", [_other_flag, _other_instance])
def test_disagreement_is_settled_by_an_option(
    change: Callable[[NodeTree], None], tmp_path: Path
) -> None:
    """With --runtime-endpoint both of two settings that disagree are changed."""
    tree = tree_of("kubeadm, flag", tmp_path)
    change(tree)
    before = tree.snapshot()
    assert run(install, tree, "--runtime-endpoint", CONTAINERD)[0] == 0
    assert CRIO not in "".join(path.read_text() for path in (tree.root / "etc").rglob("*.conf"))
    for path in ("/etc/default/kubelet", INSTANCE):
        if (tree.root / path[1:]).exists():
            assert SOCKET in tree.text(path)
    assert run(uninstall, tree)[0] == 0
    assert tree.snapshot() == before


def test_flag_has_the_last_word(tmp_path: Path) -> None:
    """A flag decides which runtime is meant, whatever the file says; the plan says so."""
    tree = tree_of("kubeadm, flag", tmp_path)
    tree.kubelet_config(containerRuntimeEndpoint=f"unix://{CRIO}")
    status, output = run(install, tree)
    assert status == 0
    assert f"has the last word over {KEY} in {KUBELET} (unix://{CRIO})" in output
    [listener] = parse(tree.text(CONFIG), CONFIG).listeners
    assert str(listener.runtime) == f"unix://{CONTAINERD}"
    assert SOCKET in tree.text(FLAGS)
    assert SOCKET in tree.text(KUBELET)


def test_configuration_that_is_there_is_kept(tmp_path: Path) -> None:
    """A configuration of the user's with a fitting listener stays, and so after uninstall."""
    tree = tree_of("kubeadm, flag", tmp_path)
    text = f"listeners: [{{endpoint: /run/mine/x.sock, runtime: {CONTAINERD}, mode: '0600'}}]\n"
    tree.file(CONFIG, text)
    before = tree.snapshot()
    assert run(install, tree)[0] == 0
    assert tree.text(CONFIG) == text
    assert "unix:///run/mine/x.sock" in tree.text(FLAGS)
    service = tree.text("/etc/systemd/system/criproxy.service")
    assert "\nReadWritePaths=-/run/mine\n" in service
    # systemd does not know the mode: criproxy listens itself.
    assert not (tree.root / "etc/systemd/system/criproxy.socket").exists()
    assert run(uninstall, tree)[0] == 0
    assert tree.snapshot() == before


def test_arguments_in_the_unit_of_k3s(tmp_path: Path) -> None:
    """Versions of k3s differ in what becomes of two lists of flags: they have to be one."""
    tree = tree_of("k3s", tmp_path)
    unit = tree.text("/etc/systemd/system/k3s.service")
    tree.file("/etc/systemd/system/k3s.service", unit.replace("server", "server --kubelet-arg=v=2"))
    status, error = refused(install, tree)
    assert status == 2
    assert "move these flags into that file" in error


@pytest.mark.parametrize("path", [FLAGS, CONFIG, "/etc/systemd/system/criproxy.service"])
def test_file_changed_since(path: str, tmp_path: Path) -> None:
    """uninstall does nothing if a file was changed since, and says how to go on; --leave goes on
    without it, unless the kubelet would still be pointed at criproxy."""
    tree = tree_of("kubeadm, flag", tmp_path)
    before = tree.snapshot()
    assert run(install, tree)[0] == 0
    tree.file(path, f"{tree.text(path)}# mine\n", 0o600)
    status, error = refused(uninstall, tree)
    assert status == 1
    assert error.startswith(f"{path} changed since")
    assert error.endswith(f"criproxy uninstall --leave {path}")
    if path == FLAGS:
        status, error = refused(uninstall, tree, "--leave", path)
        assert status == 2
        assert f"write unix://{CONTAINERD} there first" in error
        tree.file(path, tree.text(path).replace(SOCKET, f"unix://{CONTAINERD}"), 0o600)
    assert run(uninstall, tree, "--leave", path)[0] == 0
    assert tree.text(path).endswith("# mine\n")
    after = tree.snapshot()
    left = {each for each in after if after[each] != before.get(each)}
    assert path[1:] in left
    assert left <= {path[1:], "etc/criproxy"}


def test_what_may_be_left(tmp_path: Path) -> None:
    """--leave names a file of the installation."""
    tree = tree_of("kubeadm, flag", tmp_path)
    run(install, tree)
    status, error = refused(uninstall, tree, "--leave", "/etc/passwd")
    assert status == 2
    assert error.startswith("--leave /etc/passwd: not a file of the installation, which are ")


def test_other_socket_than_before(tmp_path: Path) -> None:
    """Installing again does not move criproxy to another socket."""
    tree = tree_of("kubeadm, flag", tmp_path)
    run(install, tree)
    status, error = refused(install, tree, "--listen", "/run/criproxy/other.sock")
    assert status == 2
    assert error.endswith("; first: criproxy uninstall")


def test_interrupted_run_that_needs_services(tmp_path: Path) -> None:
    """A run that was interrupted and starts services is not continued without systemctl, and
    without a terminal it has to be said what is to become of it."""
    node = Node(tree_of("kubeadm, flag", tmp_path))
    with pytest.raises(Killed):
        node.operation(8, Killed()).carry_out(node.plan("install"))
    status, error = refused(install, node.tree, "--resume", "undo")
    assert status == 2
    assert "--systemctl" in error
    result = CliRunner().invoke(install, ["--root", str(tmp_path), "--program", PROGRAM])
    assert isinstance(result.exception, CriproxyError)
    assert "with --resume undo" in str(result.exception)


def test_unit_that_was_edited(tmp_path: Path) -> None:
    """Installing again does not overwrite what a user has changed in criproxy's units."""
    tree = tree_of("kubeadm, flag", tmp_path)
    run(install, tree)
    unit = "/etc/systemd/system/criproxy.service"
    tree.file(unit, f"{tree.text(unit)}# mine\n")
    status, error = refused(install, tree)
    assert status == 1
    assert f"({unit}.d/local.conf)" in error


def test_kubelet_that_was_configured_anew(tmp_path: Path) -> None:
    """After an upgrade by kubeadm has written the kubelet's files anew, installing again moves it
    once more, and uninstall puts back the new files."""
    tree = tree_of("kubeadm, flag", tmp_path)
    run(install, tree)
    flags = f'KUBELET_KUBEADM_ARGS="--container-runtime-endpoint=unix://{CONTAINERD} --new"\n'
    tree.file(FLAGS, flags, 0o600)
    tree.kubelet_config(newKey=True)
    new = {path: tree.text(path) for path in (FLAGS, KUBELET)}
    assert run(install, tree)[0] == 0
    assert SOCKET in tree.text(FLAGS)
    assert run(uninstall, tree)[0] == 0
    assert {path: tree.text(path) for path in new} == new


def test_nobody_to_ask(tmp_path: Path) -> None:
    """Without a terminal it needs --yes."""
    tree = tree_of("kubeadm, flag", tmp_path)
    before = tree.snapshot()
    result = CliRunner().invoke(install, ["--root", str(tree.root), "--program", PROGRAM])
    assert isinstance(result.exception, CriproxyError)
    assert result.exception.exit_code == 2
    assert str(result.exception).endswith("repeat it with --yes")
    assert tree.snapshot() == before


def test_json_of_a_failure(tmp_path: Path) -> None:
    """With -o json the error is on standard output as well."""
    tree = tree_of("kubeadm, flag", tmp_path)
    _broken(tree)
    arguments = ["--root", str(tree.root), "--program", PROGRAM, "-o", "json"]
    result = CliRunner().invoke(install, arguments)
    assert json.loads(result.stdout) == {"outcome": "failed", "error": str(result.exception)}


def test_no_tree(tmp_path: Path) -> None:
    """A root without /etc, or that is none, is named."""
    for root in (tmp_path, tmp_path / "none"):
        result = CliRunner().invoke(install, ["--root", str(root), "--yes"])
        assert isinstance(result.exception, CriproxyError)
        assert result.exception.exit_code == 2
        assert str(root) in str(result.exception)


def test_damaged_journal(tmp_path: Path) -> None:
    """A journal that cannot be read is not taken for none."""
    tree = tree_of("kubeadm, flag", tmp_path)
    run(install, tree)
    tree.file("/var/lib/criproxy/install/installed.json", "{", 0o600)
    for command in (install, uninstall):
        status, error = refused(command, tree)
        assert status == 1
        assert "installed.json cannot be read" in error


def test_locked(tmp_path: Path) -> None:
    """While another run is at work, this one does nothing."""
    tree = tree_of("kubeadm, flag", tmp_path)
    descriptor = os.open(tree.root / "etc", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        status, error = refused(install, tree)
    finally:
        os.close(descriptor)
    assert status == 1
    assert "is at work below" in error


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
@pytest.mark.parametrize(
    ("mode", "what"),
    [(0o644, "may not be written by this user"), (0o600, f"{FLAGS} cannot be read")],
)
def test_without_root(mode: int, what: str, short_dir: Path) -> None:
    """A user who may not read or write the files is told to be root, and nothing is changed."""
    short_dir.chmod(0o755)
    tree = tree_of("kubeadm, flag", short_dir / "tree")
    tree.file(FLAGS, tree.text(FLAGS), mode)
    os.seteuid(65534)
    try:
        status, error = run(install, tree, "--dry-run")
    finally:
        os.seteuid(0)
    assert status == 1
    assert what in error
    assert "run it as root" in error


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_read_only_file_system(short_dir: Path) -> None:
    """A file system that is read-only is named, before anything is changed."""
    tree = tree_of("kubeadm, flag", short_dir / "tree")
    etc = str(tree.root / "etc")
    mounted = subprocess.run(["mount", "--bind", etc, etc], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", etc], check=True)
        status, error = refused(install, tree)
    finally:
        subprocess.run(["umount", etc], check=True)
    assert status == 1
    assert error.startswith("/etc is on a file system that is read-only")
