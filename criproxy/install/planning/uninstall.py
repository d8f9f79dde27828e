"""Plans the removal of an installation: each file becomes what it was."""

from collections.abc import Collection
from pathlib import Path

from criproxy.errors import UnavailableError, UsageError
from criproxy.install.edits.unit_texts import SERVICE, SOCKET
from criproxy.install.journal import (
    Change,
    Check,
    Commands,
    Journal,
    Manifest,
    Phase,
    Replaced,
    Step,
    Transaction,
)
from criproxy.install.planning.install import KUBELET_PHASE, PROXY_PHASE
from criproxy.install.planning.plan import RELOAD, Plan
from criproxy.install.tree import ABSENT, Tree


def plan_uninstall(
    tree: Tree, journal: Journal, manifest: Manifest, services: bool, left: Collection[str] = ()
) -> Plan:
    """Return what takes criproxy out again; files of ``left`` stay as they are.

    Raises UnavailableError if a file was changed since, and UsageError for a file that is left and
    still names criproxy's socket, or is none of the installation's.
    """
    _check_left(tree, manifest, left)
    files = [each for each in reversed(manifest.files) if each.path not in left]
    _check_unchanged(tree, files)
    changes: list[tuple[str, Change]] = []
    contents: dict[str, bytes | Path] = {}
    for each in files:
        before = tree.state(each.path)
        if before == each.original:
            continue
        tree.check_writable(each.path)
        changes.append((each.phase, Change(each.path, before, each.original, len(changes) + 1)))
        if each.saved:
            contents[each.path] = journal.original(each)
    phases = (
        _kubelet_phase(
            manifest, [each for phase, each in changes if phase == KUBELET_PHASE], services
        ),
        _proxy_phase(manifest, [each for phase, each in changes if phase == PROXY_PHASE], services),
    )
    transaction = Transaction(
        "uninstall",
        manifest.installation,
        tuple(each for each in phases if each.steps),
        left=tuple(left),
    )
    notes = [f"{each} stays as it is" for each in left]
    if not services:
        notes.append(
            f"no service is stopped: {manifest.installation.unit} takes this up when it starts next"
        )
    return Plan(transaction, contents, tuple(notes))


def _kubelet_phase(manifest: Manifest, changes: list[Change], services: bool) -> Phase:
    steps: list[Step] = [*changes]
    if changes and manifest.installation.moved:
        steps.append(Check("released", "read the kubelet's configuration again"))
    if not (changes and services):
        return Phase(KUBELET_PHASE, tuple(steps))
    unit = manifest.installation.unit
    restart = (RELOAD, ("restart", unit))
    steps.append(Commands(restart, f"restart {unit}"))
    if manifest.installation.health:
        steps.append(Check("healthy", "wait until the kubelet is healthy"))
    return Phase(KUBELET_PHASE, tuple(steps), (), restart)


def _proxy_phase(manifest: Manifest, changes: list[Change], services: bool) -> Phase:
    if not services:
        return Phase(PROXY_PHASE, tuple(changes))
    removed = {
        each.path.rpartition("/")[2]
        for each in changes
        if each.before.kind == "file" and each.after == ABSENT
    }
    ran = manifest.installation.ran_before
    units = [each for each in (SOCKET, SERVICE) if each in removed and not ran]
    stop = tuple(("stop", each) for each in units)
    start = tuple(("start", each) for each in units)
    steps: tuple[Step, ...] = (
        Commands(stop, "stop criproxy"),
        *changes,
        Commands((RELOAD,), "have systemd read the units"),
    )
    return Phase(PROXY_PHASE, steps, (), (RELOAD, *start))


def _check_left(tree: Tree, manifest: Manifest, left: Collection[str]) -> None:
    for path in left:
        replaced = manifest.of(path)
        if replaced is None:
            raise UsageError(
                f"--leave {path}: not a file of the installation, which are "
                f"{', '.join(each.path for each in manifest.files)}"
            )
        text = tree.text(path) or ""
        if replaced.phase == KUBELET_PHASE and manifest.installation.endpoint in text:
            raise UsageError(
                f"--leave {path}: it still names {manifest.installation.endpoint}, where nobody "
                f"would listen; write unix://{manifest.installation.runtime} there first"
            )


def _check_unchanged(tree: Tree, files: list[Replaced]) -> None:
    changed = [each for each in files if not _is_known(tree, each)]
    if changed:
        names = " and ".join(each.path for each in changed)
        options = " ".join(f"--leave {each.path}" for each in changed)
        raise UnavailableError(
            f"{names} changed since the installation, which the originals would undo; nothing is "
            "done. Take criproxy's socket out of the kubelet's files by hand, then go on with: "
            f"criproxy uninstall {options}"
        )


def _is_known(tree: Tree, each: Replaced) -> bool:
    state = tree.state(each.path)
    if each.installed.kind == "directory":  # its mode and owner may have changed
        return state.kind in ("directory", "absent")
    return state in (each.installed, each.original)
