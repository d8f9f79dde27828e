"""Plans an installation, or its renewal by another version."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from criproxy import __version__
from criproxy.errors import UnavailableError, UsageError
from criproxy.install.edits.unit_texts import (
    SERVICE,
    SOCKET,
    drop_in_text,
    service_text,
    socket_text,
)
from criproxy.install.edits.yaml_keys import load_mapping, set_keys
from criproxy.install.journal import (
    Change,
    Check,
    Commands,
    Installation,
    Manifest,
    Phase,
    Step,
    Transaction,
)
from criproxy.install.layouts.find import find_layout
from criproxy.install.layouts.setup import DROP_IN, Edits, Layout, Setup
from criproxy.install.planning.changes import Changes
from criproxy.install.planning.plan import RELOAD, Plan
from criproxy.install.planning.proxy import CONFIG, SYSTEM, Proxy, decide
from criproxy.install.tree import Tree
from criproxy.relay.endpoints import Endpoint

CRICTL: Final = "/etc/crictl.yaml"
_CRICTL_PROGRAMS: Final = ("/usr/bin/crictl", "/usr/local/bin/crictl")
_HIDDEN: Final = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")  # noqa: S108
"""What ProtectHome= and PrivateTmp= of the unit hide."""

PROXY_PHASE: Final = "criproxy"
KUBELET_PHASE: Final = "kubelet"


@dataclass(frozen=True)
class Wanted:
    """What the user has said."""

    program: str
    """The absolute path of criproxy within the tree."""
    services: bool
    """Whether services are started."""
    unit: str | None = None
    listen: Endpoint | None = None
    runtime: Endpoint | None = None
    running: bool = False
    """Whether a criproxy runs already that this command has not installed."""


def plan_install(tree: Tree, manifest: Manifest | None, wanted: Wanted) -> Plan:
    """Return what puts criproxy in front of the kubelet of a tree.

    Raises UsageError for a tree or options that do not fit, UnavailableError for files that cannot
    be written, and UndeterminedError for a kubelet whose settings cannot be read.
    """
    unit = wanted.unit or (manifest.installation.unit if manifest is not None else None)
    layout = find_layout(tree, unit)
    setup = layout.setup()
    proxy = decide(tree, setup, manifest, wanted.listen, wanted.runtime, wanted.running)
    _check_program(tree, wanted.program)
    _check_unchanged(tree, manifest)
    changes = Changes(tree)
    phases = (
        _proxy_phase(changes, tree, manifest, wanted, proxy, layout),
        _kubelet_phase(changes, tree, wanted, proxy, layout, setup),
    )
    installation = Installation(
        __version__,
        layout.name,
        layout.unit,
        proxy.endpoint.path,
        proxy.runtime.path,
        CONFIG,
        wanted.program,
        proxy.moved or (manifest is not None and manifest.installation.moved),
        manifest.installation.ran_before if manifest is not None else wanted.running,
        setup.health,
    )
    transaction = Transaction(
        "install",
        installation,
        tuple(each for each in phases if each.steps),
        left=tuple(_written_by_others(tree, manifest, changes, proxy)),
    )
    return Plan(transaction, dict(changes.contents), _notes(setup, proxy, wanted, layout))


def _proxy_phase(
    changes: Changes,
    tree: Tree,
    manifest: Manifest | None,
    wanted: Wanted,
    proxy: Proxy,
    layout: Layout,
) -> Phase:
    service, socket = f"{SYSTEM}/{SERVICE}", f"{SYSTEM}/{SOCKET}"
    steps: list[Step] = []
    if proxy.config is not None:
        steps += changes.write(CONFIG, proxy.config)
    path = proxy.endpoint.path
    steps += changes.write(service, service_text(wanted.program, CONFIG, path, layout.unit))
    if proxy.with_socket:
        steps += changes.write(socket, socket_text(path, layout.unit))
        steps += changes.link(f"{SYSTEM}/sockets.target.wants/{SOCKET}", socket)
    steps += changes.link(f"{SYSTEM}/multi-user.target.wants/{SERVICE}", service)
    units = [SOCKET, SERVICE] if proxy.with_socket else [SERVICE]
    if not wanted.services:
        return Phase(PROXY_PHASE, tuple(steps))
    first: list[Step] = [_AGREES] if proxy.moved else []
    if manifest is None:
        start = (RELOAD, *(("start", each) for each in units))
        steps.append(Commands(start, "start criproxy"))
        steps.append(_PROVE)
        stop = () if wanted.running else tuple(("stop", each) for each in units)
        return Phase(PROXY_PHASE, (*first, *steps), stop, (RELOAD,))
    if manifest.installation.program != wanted.program:
        # The running daemon would execute the program that it was started with.
        restart = (RELOAD, ("restart", SERVICE))
        steps.append(Commands(restart, "restart criproxy, which finishes its calls"))
        steps.append(_PROVE)
        return Phase(PROXY_PHASE, (*first, *steps), (), restart)
    if steps or manifest.installation.version != __version__:
        steps.append(Commands((RELOAD,), "have systemd read the units"))
        steps.append(Check("upgrade", "replace the running criproxy, which finishes its calls"))
        steps.append(_PROVE)
        return Phase(PROXY_PHASE, (*first, *steps), (), (RELOAD,))
    return Phase(PROXY_PHASE, tuple(first))


_AGREES: Final = Check("agrees", "compare the kubelet's files with what it runs with")
_PROVE: Final = Check("proxy", "compare criproxy's answers with the runtime's")


def _kubelet_phase(
    changes: Changes, tree: Tree, wanted: Wanted, proxy: Proxy, layout: Layout, setup: Setup
) -> Phase:
    edits = layout.edits(str(proxy.endpoint)) if proxy.moved else Edits({})
    steps: list[Step] = []
    drop_in = f"{SYSTEM}/{layout.unit}.d/{DROP_IN}"
    if proxy.moved or not tree.exists(drop_in):
        steps += changes.write(drop_in, drop_in_text(proxy.with_socket, edits.exec_start))
    for path, text in edits.files.items():
        steps += changes.write(path, text)
    steps += _crictl(changes, tree, proxy)
    if not steps:
        return Phase(KUBELET_PHASE, ())
    steps.append(Check("configured", "read the kubelet's configuration again"))
    if not wanted.services:
        return Phase(KUBELET_PHASE, tuple(steps))
    restart = (RELOAD, *([("restart", layout.unit)] if proxy.moved else []))
    steps.append(Commands(restart, f"restart {layout.unit}" if proxy.moved else "reload systemd"))
    if proxy.moved:
        if setup.health:
            steps.append(Check("healthy", "wait until the kubelet is healthy"))
        steps.append(Check("connected", "wait for the kubelet's calls"))
    return Phase(KUBELET_PHASE, tuple(steps), (), restart)


def _crictl(changes: Changes, tree: Tree, proxy: Proxy) -> list[Change]:
    """Move crictl, if it has the kubelet's runtime or is told none."""
    text = tree.text(CRICTL)
    if text is None:
        if not any(tree.exists(each) for each in _CRICTL_PROGRAMS):
            return []
        text = ""
    content = load_mapping(text, CRICTL)
    keys = ["runtime-endpoint", *(["image-endpoint"] if content.get("image-endpoint") else [])]
    own = {str(proxy.runtime), proxy.runtime.path, ""}
    values = {each: str(content.get(each) or "") for each in keys}
    moved = {key: str(proxy.endpoint) for key, value in values.items() if value in own}
    return changes.write(CRICTL, set_keys(text, moved, CRICTL)) if moved else []


def _check_program(tree: Tree, program: str) -> None:
    if not program.startswith("/") or any(each.isspace() or each in "%$\"'\\" for each in program):
        raise UsageError(f"--program {program}: not an absolute path without blanks and quotes")
    if program.startswith(_HIDDEN):
        raise UsageError(
            f"{program}: the service sees none of {', '.join(_HIDDEN)}; install the package in "
            "/opt/criproxy, or name its command with --program"
        )
    if not tree.exists(program):
        raise UsageError(
            f"there is no {program} below {tree.root}; install the package there, or name its "
            "command with --program"
        )


def _check_unchanged(tree: Tree, manifest: Manifest | None) -> None:
    """Raise UnavailableError if units of an installation were edited: that would be lost."""
    for each in manifest.files if manifest is not None else ():
        is_unit = each.path.endswith((f"/{SERVICE}", f"/{SOCKET}", f"/{DROP_IN}"))
        if is_unit and tree.state(each.path) not in (each.installed, each.original):
            raise UnavailableError(
                f"{each.path} was changed since it was installed; move the changes into a drop-in "
                f"({each.path}.d/local.conf), remove the file, and run it again"
            )


def _written_by_others(
    tree: Tree, manifest: Manifest | None, changes: Changes, proxy: Proxy
) -> Iterator[str]:
    """Yield files of the kubelet that others have written since, without criproxy's socket.

    An upgrade of the distribution does so. What was there before the installation is out of date.
    """
    for each in manifest.files if manifest is not None else ():
        is_other = tree.state(each.path) not in (each.installed, each.original)
        if each.phase != KUBELET_PHASE or each.path in changes.contents or not is_other:
            continue
        if proxy.endpoint.path not in (tree.text(each.path) or ""):
            yield each.path


def _notes(setup: Setup, proxy: Proxy, wanted: Wanted, layout: Layout) -> tuple[str, ...]:
    notes = list(setup.notes)
    if not wanted.services:
        notes.append(
            f"no service is started: criproxy and {layout.unit} take this up when they start next"
        )
    if proxy.config is None and proxy.moved:
        notes.append(f"{CONFIG} is kept as it is")
    return tuple(notes)
