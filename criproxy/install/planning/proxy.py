"""Decides where criproxy listens and in front of which runtime, and what its configuration says."""

from typing import Final, NamedTuple

import yaml

from criproxy.config.load import parse
from criproxy.config.schema import DEFAULT_ENDPOINT, ListenerConfig
from criproxy.errors import UsageError
from criproxy.install.journal import Manifest
from criproxy.install.layouts.setup import Setup, endpoint_of
from criproxy.install.tree import Tree
from criproxy.relay.endpoints import Endpoint

SYSTEM: Final = "/etc/systemd/system"
CONFIG: Final = "/etc/criproxy/config.yaml"

CRIO_SUFFIX: Final = "run/crio/crio.sock"
"""The kubelet selects its stats provider by this end of the socket's path."""

_HEADER: Final = """\
# Written by criproxy install. config.example.yaml explains all keys.
# After a change: criproxy check -c FILE, then systemctl reload criproxy.service
"""


class Proxy(NamedTuple):
    """Where criproxy stands."""

    endpoint: Endpoint
    runtime: Endpoint
    config: str | None
    """The text of its configuration; None to keep the file that is there."""
    with_socket: bool
    """Whether systemd may listen for it: the socket's owner and mode are the runtimes' usual."""
    moved: bool
    """Whether the kubelet has to be moved."""


def decide(
    tree: Tree,
    setup: Setup,
    manifest: Manifest | None,
    listen: Endpoint | None,
    runtime: Endpoint | None,
    running: bool,
) -> Proxy:
    """Decide from the kubelet's settings, an earlier installation, and what the user has named.

    ``running``: whether a criproxy runs that was not installed by this command.
    Raises UsageError where these do not fit together.
    """
    if setup.disagreement and runtime is None:
        raise UsageError(
            f"two configurations of the kubelet disagree: {setup.disagreement}; correct one, or "
            "name the runtime that is meant with --runtime-endpoint, and both are changed"
        )
    text = _kept_config(tree, manifest)
    listeners = parse(text, CONFIG).listeners if text is not None else []
    current = endpoint_of(setup.runtime)
    at_current = next((each for each in listeners if _same(tree, each.endpoint, current)), None)
    earlier = Endpoint(manifest.installation.endpoint) if manifest is not None else None
    if earlier is not None and listen is not None and not _same(tree, earlier, listen):
        raise UsageError(
            f"--listen {listen}: criproxy is installed at {earlier}; first: criproxy uninstall"
        )
    moved = at_current is None and not (earlier is not None and _same(tree, earlier, current))
    found = runtime or (current if moved else _behind(manifest, at_current))
    if found is None:
        raise UsageError(
            f"{setup.runtime.source} points the kubelet at {current} already, and {CONFIG} does "
            "not name the runtime; name it with --runtime-endpoint"
        )
    listener = at_current if at_current is not None else _fitting(tree, listeners, found, listen)
    if text is not None and listener is None:
        raise UsageError(
            f"{CONFIG} has no listener with the profile full in front of {found}; add one, or name "
            "the runtime with --runtime-endpoint"
        )
    endpoint = _endpoint(tree, listener, listen or (earlier if not moved else None), found)
    with_socket = listener is None or (listener.mode is None and listener.owner is None)
    # systemd cannot begin to listen for a service that does so itself.
    with_socket = with_socket and not running
    config = _config(endpoint, found, setup) if text is None else None
    return Proxy(endpoint, found, config, with_socket, moved)


def _kept_config(tree: Tree, manifest: Manifest | None) -> str | None:
    """Return the configuration that is there, unless it is as an installation wrote it."""
    text = tree.text(CONFIG)
    if text is None or manifest is None:
        return text
    real = tree.real(CONFIG)
    written = manifest.of(real)
    return None if written is not None and tree.state(real) == written.installed else text


def _behind(manifest: Manifest | None, listener: ListenerConfig | None) -> Endpoint | None:
    """Return the runtime of a proxy that the kubelet is pointed at."""
    if listener is not None and listener.runtime is not None:
        return listener.runtime
    return Endpoint(manifest.installation.runtime) if manifest is not None else None


def _fitting(
    tree: Tree, listeners: list[ListenerConfig], runtime: Endpoint, listen: Endpoint | None
) -> ListenerConfig | None:
    """Return the first listener that the kubelet can use."""
    for each in listeners:
        fits = each.runtime is None or _same(tree, each.runtime, runtime)
        if not each.is_scoped and fits and listen in (None, each.endpoint):
            return each
    return None


def _endpoint(
    tree: Tree, listener: ListenerConfig | None, named: Endpoint | None, runtime: Endpoint
) -> Endpoint:
    crio = runtime.path.endswith(CRIO_SUFFIX)
    usual = Endpoint(f"/run/criproxy/{CRIO_SUFFIX}") if crio else DEFAULT_ENDPOINT
    endpoint = listener.endpoint if listener is not None else named or usual
    if _same(tree, endpoint, runtime):
        raise UsageError(f"{endpoint} is the runtime's own socket; choose another with --listen")
    if crio and not endpoint.path.endswith(CRIO_SUFFIX):
        where = f"in {CONFIG}" if listener is not None else "with --listen"
        raise UsageError(
            f"{endpoint}: in front of CRI-O the path has to end in {CRIO_SUFFIX}, by which the "
            f"kubelet knows where its statistics are; write {usual} {where}"
        )
    return endpoint


def _config(endpoint: Endpoint, runtime: Endpoint, setup: Setup) -> str:
    listener = {"endpoint": str(endpoint), "runtime": str(runtime)}
    if setup.image is not None and endpoint_of(setup.image) != endpoint:
        listener["image"] = str(endpoint_of(setup.image))
    return _HEADER + yaml.safe_dump({"listeners": [listener]}, sort_keys=False)


def _same(tree: Tree, one: Endpoint, other: Endpoint) -> bool:
    """Return whether two paths lead to the same place."""
    return tree.real(one.path) == tree.real(other.path)
