"""What a layout finds out about a kubelet, and what it offers for moving it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from criproxy.doctor.node.command_flags import flag
from criproxy.doctor.node.k3s import Setting
from criproxy.doctor.node.process_files import ProcessFiles
from criproxy.doctor.node.system import System
from criproxy.errors import EndpointError, UsageError
from criproxy.install.tree import Tree
from criproxy.relay.endpoints import Endpoint, parse_endpoint

RUNTIME_FLAG: Final = "container-runtime-endpoint"
RUNTIME_KEY: Final = "containerRuntimeEndpoint"
IMAGE_FLAG: Final = "image-service-endpoint"
IMAGE_KEY: Final = "imageServiceEndpoint"
OPTIONS: Final = {RUNTIME_FLAG: RUNTIME_KEY, IMAGE_FLAG: IMAGE_KEY}
"""The kubelet's flags for its endpoints, and the keys of its configuration file."""

HEALTH_PORT: Final = "10248"
"""Default of healthzPort in KubeletConfiguration v1beta1."""

DROP_IN: Final = "90-criproxy.conf"
"""The name of criproxy's drop-in for the kubelet's unit."""


class Setup(NamedTuple):
    """Where a kubelet is pointed, as its files have it."""

    runtime: Setting
    image: Setting | None = None
    """A separate endpoint for images."""
    disagreement: str = ""
    """Two settings of the runtime that differ and of which neither is meant to override the other;
    empty if there are none."""
    notes: tuple[str, ...] = ()
    """What the user should know of the settings."""
    health: str = f"http://127.0.0.1:{HEALTH_PORT}/healthz"
    """The kubelet's healthz; empty if it serves none."""


class Edits(NamedTuple):
    """What points the kubelet at another endpoint."""

    files: Mapping[str, str]
    """New texts of files by their paths."""
    exec_start: str = ""
    """A command for the drop-in of the kubelet's unit; empty to keep the unit's."""


class Layout(Protocol):
    """A way in which kubelets are configured."""

    name: str
    unit: str
    """The service that runs the kubelet."""

    def setup(self) -> Setup:
        """Read where the kubelet is pointed. Raises UsageError and UndeterminedError."""

    def edits(self, endpoint: str) -> Edits:
        """Return what points the kubelet at an endpoint. Raises as :meth:`setup` does."""


class TreeFiles(ProcessFiles):
    """The files of a tree, without a process that has read them."""

    def __init__(self, tree: Tree, own: bool = True) -> None:
        """``own``: whether criproxy's drop-in of the kubelet's unit is read as well."""
        super().__init__(_TreeSystem(tree), 0, read_at_start=False)
        self._tree = tree
        self._own = own

    def path(self, path: str) -> Path:
        """Return where to read a path of the tree."""
        return self._tree.host(self._tree.real(path))

    def drop_ins(self, directory: Path, *suffixes: str) -> Iterator[Path]:
        """Yield as ProcessFiles does; without criproxy's drop-in if it is not to be read."""
        for each in super().drop_ins(directory, *suffixes):
            if self._own or each.name != DROP_IN:
                yield each


class _TreeSystem(System):
    """A system whose files are those of a tree, and without processes."""

    def __init__(self, tree: Tree) -> None:
        super().__init__(proc=tree.root / "proc", root=tree.root, environ={})
        self._tree = tree

    def path(self, path: str) -> Path:
        return self._tree.host(self._tree.real(path))


def endpoint_of(setting: Setting) -> Endpoint:
    """Return the endpoint that a setting names. Raises UsageError, which names its source."""
    try:
        found = parse_endpoint(setting.value)
    except EndpointError as error:
        raise UsageError(f"{setting.source}: {error}") from None
    # The same directory on every systemd node, and the one that socket units may name.
    in_run = found.path.startswith("/var/run/")
    return Endpoint(found.path.removeprefix("/var")) if in_run else found


def separate(image: Setting | None, runtime: Setting) -> Setting | None:
    """Return the setting of the image service if it is another socket than the runtime's."""
    return image if image and endpoint_of(image) != endpoint_of(runtime) else None


def health_of(command: Sequence[str]) -> str:
    """Return the URL of the healthz of a kubelet with these flags; empty if it serves none."""
    return health_url(
        flag(command, "healthz-bind-address") or "127.0.0.1",
        flag(command, "healthz-port") or HEALTH_PORT,
    )


def health_url(address: str, port: str) -> str:
    """Return the URL of a kubelet's healthz; empty if the port is 0, which turns it off."""
    if port == "0":
        return ""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/healthz"


def quoted(word: str) -> str:
    """Return a word of a unit's command in quotes (systemd.service(5), "Command lines")."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
