"""Failures beside the steps: while preparing, committing and undoing, and by somebody else."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from criproxy.errors import IncompleteError, UnavailableError
from criproxy.install import journal
from criproxy.install.edits.unit_texts import service_text
from criproxy.install.operation import Operation
from criproxy.install.planning.install import Wanted
from tests.install.injection import FaultyTree, Killed, Node
from tests.install.trees import PROGRAM, NodeTree, tree_of

LAYOUT = "kubeadm, flag"
FLAGS = "/var/lib/kubelet/kubeadm-flags.env"


@pytest.fixture(autouse=True)
def _no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node on which nothing is installed."""
    return Node(tree_of(LAYOUT, tmp_path))


def failing(node: Node) -> Operation:
    """Return an operation whose last step fails."""
    return node.operation(
        len(node.plan("install").transaction.steps), OSError(errno.ENOSPC, "full")
    )


def test_killed_while_undoing(node: Node) -> None:
    """Undoing can be interrupted at each of its steps, and be begun again."""
    before = node.state()
    undone = 0
    for kill in range(1, 100):
        operation = failing(node)
        notify, count = operation.notify, 0

        def killing(
            kind: str, what: str, kill: int = kill, notify: Callable[[str, str], None] = notify
        ) -> None:
            nonlocal count
            notify(kind, what)
            count += kind == "undo"
            if kind == "undo" and count == kill:
                raise Killed

        operation.notify = killing
        try:
            operation.carry_out(node.plan("install"))
        except UnavailableError:
            break  # there was no such step any more
        except Killed:
            undone += 1
        pending = node.operation().pending()
        assert pending is not None
        node.operation().undo(pending)
        assert node.state() == before
    assert undone > len(node.plan("install").transaction.changes)


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("name", ["pending.json", "installed.json"])
def test_killed_beside_the_steps(
    name: str, written: bool, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before or after the plan or the installation is written down, the next run goes on:
    from the beginning where nothing was changed, to the end where everything was."""
    before = node.state()
    write = journal._write

    def killing(file: Path, content: bytes) -> None:
        if file.name == name and not written:
            raise Killed
        write(file, content)
        if file.name == name:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(journal, "_write", killing)
        patch.setattr(journal.Journal, "tidy", lambda self: None)  # it is dead
        with pytest.raises(Killed):
            node.operation().carry_out(node.plan("install"))
    operation = node.operation()
    pending = operation.pending()
    if name == "pending.json":
        if pending is not None:
            operation.undo(pending)
        assert node.operation().installed() is None
        node.do("install")
    else:
        assert pending is not None
        operation.undo(pending)  # all was done: it is committed
    assert operation.installed() is not None
    node.do("uninstall")
    assert node.state() == before


def test_output_that_blocks(node: Node) -> None:
    """A terminal that takes no more output is not taken for another run's lock."""
    operation = node.operation()
    with pytest.raises(BlockingIOError), operation.locked():
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def test_no_space_for_the_journal(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk is full before the first step, nothing is changed and nothing is left."""
    before = node.tree.snapshot()
    plan = node.plan("install")

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(journal, "copy", full)
    with pytest.raises(UnavailableError, match="No space left on device; nothing was changed"):
        node.operation().carry_out(plan)
    assert {each for each in node.tree.snapshot() if "criproxy" in each} <= set(before)


def test_no_space_for_undoing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are put back by renaming: a disk that is full does not keep them from their place."""
    before = node.state()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    operation = failing(node)
    plan = node.plan("install")
    notify = operation.notify

    def fill(kind: str, what: str) -> None:
        notify(kind, what)
        if kind == "undo":
            monkeypatch.setattr("criproxy.install.tree.copy", full)

    operation.notify = fill
    with pytest.raises(UnavailableError, match="everything is as it was before"):
        operation.carry_out(plan)
    assert node.state() == before


def test_somebody_else_changes_a_file_meanwhile(node: Node) -> None:
    """What others write while it is at work is not overwritten; the error names the file, and once
    it is as before or as installed, undoing goes on."""
    before = node.state()
    operation = failing(node)
    notify = operation.notify
    original = node.tree.text(FLAGS)

    def meddle(kind: str, what: str) -> None:
        notify(kind, what)
        if what.startswith("wait for"):
            node.tree.file(FLAGS, "mine\n", 0o600)

    operation.notify = meddle
    with pytest.raises(IncompleteError, match=f"{FLAGS} was changed meanwhile"):
        operation.carry_out(node.plan("install"))
    assert node.tree.text(FLAGS) == "mine\n"
    node.tree.file(FLAGS, original, 0o600)
    pending = node.operation().pending()
    assert pending is not None
    node.operation().undo(pending)
    assert node.state() == before


def test_another_is_at_work(node: Node) -> None:
    """Two cannot work on the same tree."""
    with (
        node.operation().locked(),
        pytest.raises(UnavailableError, match="another criproxy install or uninstall is at work"),
        Operation(FaultyTree(node.tree.root)).locked(),
    ):
        pass


def test_no_space_for_committing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """If only the end cannot be written down, everything stays, and the next run ends it."""
    write = journal._write

    def full(file: Path, content: bytes) -> None:
        if file.name == "installed.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        write(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(journal, "_write", full)
        with pytest.raises(IncompleteError, match="--resume finish"):
            node.do("install")
    pending = node.operation().pending()
    assert pending is not None
    node.operation().finish(pending)
    assert [*_names(node)] == []


def test_kubelet_that_is_pointed_at_it_elsewhere(tmp_path: Path) -> None:
    """If other files than those that are put back lead the kubelet to criproxy, as after snapd has
    copied them to a new revision, nothing is removed."""
    node = Node(tree_of("MicroK8s", tmp_path))
    node.do("install")
    revision = node.tree.root / "var/snap/microk8s"
    shutil.copytree(revision / "7229", revision / "7230")
    (revision / "current").unlink()
    (revision / "current").symlink_to("7230")
    before = node.state()
    with pytest.raises(UnavailableError, match=r"write unix:///var/snap/.* there and run it again"):
        node.do("uninstall")
    assert node.state() == before


def test_installed_by_hand(tmp_path: Path) -> None:
    """A criproxy that was set up by hand goes on if installing fails, and after uninstalling."""
    node = Node(tree_of("kubeadm, instance-config.yaml", tmp_path))
    socket, runtime = "/run/criproxy/criproxy.sock", "/run/containerd/containerd.sock"
    config = f"listeners: [{{endpoint: {socket}, runtime: {runtime}}}]\n"
    node.tree.file("/etc/criproxy/config.yaml", config)
    service = service_text(PROGRAM, "/etc/criproxy/config.yaml", socket, "kubelet.service")
    node.tree.file("/etc/systemd/system/criproxy.service", service)
    for file in ("config.yaml", "instance-config.yaml"):
        path = f"/var/lib/kubelet/{file}"
        node.tree.file(path, node.tree.text(path).replace(runtime, socket))
    node.systemd.running.add("criproxy.service")
    node.systemd.call("restart", "kubelet.service")
    before = node.state()
    steps = [*_names(node)]
    assert "criproxy.socket" not in steps
    assert "healthy" not in steps  # the kubelet is not restarted
    with pytest.raises(UnavailableError):
        failing(node).carry_out(node.plan("install"))
    assert node.state() == before
    node.do("install")
    assert "criproxy.service" in node.systemd.running
    node.do("uninstall")
    assert node.state() == before


def test_renewal_by_a_newer_version(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer version replaces the running criproxy; the kubelet is not restarted, and uninstall
    puts back what was there before the first."""
    before = node.state()
    node.do("install")
    module = "criproxy.install.planning.install"
    monkeypatch.setattr(f"{module}.__version__", "99")
    monkeypatch.setattr(f"{module}.socket_text", lambda *_: "[Socket]\nListenStream=/new\n")
    steps = [*_names(node)]
    assert steps == ["criproxy.socket", "systemctl", "upgrade", "proxy"]
    node.do("install")
    manifest = node.operation().installed()
    assert manifest is not None
    assert manifest.installation.version == "99"
    assert [*_names(node)] == []
    node.do("uninstall")
    assert node.state() == before


def test_renewal_by_another_program(node: Node) -> None:
    """A criproxy at another path is started instead of the running one, which executes its own."""
    node.do("install")
    node.tree.file("/opt/criproxy/2/criproxy", "", 0o755)
    plan = node.operation().plan_install(Wanted("/opt/criproxy/2/criproxy", services=True))
    commands = [each for each in plan.transaction.steps if isinstance(each, journal.Commands)]
    assert [each.commands for each in commands] == [
        (("daemon-reload",), ("restart", "criproxy.service"))
    ]
    node.operation().carry_out(plan)
    assert "/2/criproxy run" in node.tree.text("/etc/systemd/system/criproxy.service")


def _names(node: Node) -> Iterator[str]:
    for step in node.plan("install").transaction.steps:
        match step:
            case journal.Change(path=path):
                yield path.rpartition("/")[2]
            case journal.Check(name=name):
                yield name
            case _:
                yield "systemctl"


def test_directory_that_became_a_link(node: Node, short_dir: Path) -> None:
    """A directory that is a link by now is looked for within the tree, as the node itself would:
    the files that are at that place of this machine are not those of the installation."""
    system = node.tree.root / "etc/systemd/system"
    before = node.tree.installed_snapshot()
    node.do("install")
    elsewhere = node.tree.root / str(short_dir)[1:] / "units"
    elsewhere.parent.mkdir(parents=True)
    shutil.copytree(system, short_dir / "units", symlinks=True)
    system.rename(elsewhere)
    system.symlink_to(short_dir / "units")
    outside = NodeTree(short_dir).snapshot()
    node.do("uninstall")
    assert NodeTree(short_dir).snapshot() == outside
    system.unlink()
    elsewhere.rename(system)
    shutil.rmtree(node.tree.root / str(short_dir).split("/")[1])
    assert node.tree.installed_snapshot() == before


def test_path_that_leads_out_of_the_tree(node: Node, short_dir: Path) -> None:
    """A journal came with its tree: what it names is within that, whatever it names."""
    with pytest.raises(Killed):
        node.operation(2, Killed()).carry_out(node.plan("install"))
    pending = node.tree.root / "var/lib/criproxy/install/pending.json"
    path = f"{'/..' * 20}{short_dir}/x"
    pending.write_text(
        pending.read_text().replace('"/etc/systemd/system/criproxy.service"', f'"{path}"')
    )
    operation = node.operation()
    transaction = operation.pending()
    assert transaction is not None
    assert path in [each.path for each in transaction.changes]
    (node.tree.root / str(short_dir)[1:]).mkdir(parents=True)
    operation.finish(transaction)
    assert not list(short_dir.iterdir())
    assert (node.tree.root / str(short_dir)[1:] / "x").exists()


@pytest.mark.parametrize("content", [None, b"", bytes(10)])
def test_damaged_progress(content: bytes | None, node: Node) -> None:
    """A run of which it is not known how far it came is neither finished nor undone."""
    with pytest.raises(Killed):
        node.operation(8, Killed()).carry_out(node.plan("install"))
    progress = node.tree.root / "var/lib/criproxy/install/progress"
    progress.unlink()
    if content is not None:
        progress.write_bytes(content)
    before = node.state()
    operation = node.operation()
    pending = operation.pending()
    assert pending is not None
    for resume in (operation.undo, operation.finish):
        with pytest.raises(IncompleteError, match="progress cannot be read"):
            resume(pending)
    assert node.state() == before


def test_fifos_in_the_journal(node: Node) -> None:
    """A FIFO in the place of a file that the journal keeps is an error that names it, and is not
    waited for."""
    before = node.state()
    with pytest.raises(Killed):
        node.operation(1, Killed()).carry_out(node.plan("install"))
    operation = node.operation()
    pending = operation.pending()
    assert pending is not None
    journal = node.tree.root / "var/lib/criproxy/install"
    progress = journal / "progress"
    kept = progress.read_bytes()
    progress.unlink()
    os.mkfifo(progress)
    for resume in (operation.undo, operation.finish):
        with pytest.raises(IncompleteError, match=r"progress.*not a regular file"):
            resume(pending)
    progress.unlink()
    progress.write_bytes(kept)
    for file in (journal / "staged").glob("*.new"):
        file.unlink()
        os.mkfifo(file)
    with pytest.raises(UnavailableError, match="new: not a regular file; everything is as it was"):
        operation.finish(pending)
    assert node.state() == before
