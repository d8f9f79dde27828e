"""Reads a kubelet's runtime endpoint from its command line, then from its configuration files."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from criproxy.doctor.node.facts import Facts
from criproxy.errors import EndpointError
from criproxy.relay.endpoints import Endpoint, parse_endpoint

DEFAULT: Final = "unix:///run/containerd/containerd.sock"
"""Default of containerRuntimeEndpoint in KubeletConfiguration v1beta1."""

_DISTRIBUTIONS: Final = {
    "k3s": ("/etc/rancher/k3s/config.yaml", "unix:///run/k3s/containerd/containerd.sock"),
    "rke2": ("/etc/rancher/rke2/config.yaml", "unix:///run/k3s/containerd/containerd.sock"),
}
"""Programs that embed a kubelet: configuration file and endpoint of the bundled containerd."""

_MAX_BYTES: Final = 1 << 20
"""Maximum number of bytes read of a configuration file."""


@dataclass(frozen=True, slots=True)
class ConfiguredEndpoint:
    """An endpoint and the flag or file that sets it."""

    endpoint: str
    source: str


def runtime_endpoint_of(facts: Facts, pid: int) -> ConfiguredEndpoint:
    """Return a kubelet's runtime endpoint.

    Raises OSError for a file that cannot be read and ValueError for one that is not YAML.
    """
    return _first(facts, pid, "container-runtime-endpoint", "containerRuntimeEndpoint") or (
        ConfiguredEndpoint(_default_runtime(facts, pid), "its default")
    )


def image_endpoint_of(facts: Facts, pid: int) -> ConfiguredEndpoint | None:
    """Return a separate image endpoint, else None. Raises as ``runtime_endpoint_of``."""
    return _first(facts, pid, "image-service-endpoint", "imageServiceEndpoint")


def uses_criproxy(facts: Facts, pid: int) -> bool:
    """Return whether a kubelet's runtime endpoint is known to be one of criproxy's listeners."""
    try:
        return profile_at(facts, runtime_endpoint_of(facts, pid).endpoint) is not None
    except (OSError, ValueError):
        return False


def profile_at(facts: Facts, endpoint: str) -> str | None:
    """Return the profile of the listener at an endpoint; None if there is none."""
    try:
        path = _real(facts, parse_endpoint(endpoint))
    except EndpointError:
        return None
    for listener in facts.config.listeners:
        if _real(facts, listener.endpoint) == path:
            return listener.profile
    return None


def flag(command: Sequence[str], name: str) -> str | None:
    """Return a flag's last value: ``--name=value`` or ``--name value``, with one dash as well."""
    found = None
    for at, word in enumerate(command):
        key, equals, value = word.partition("=")
        if key in (f"--{name}", f"-{name}"):
            if equals:
                found = value
            elif at + 1 < len(command):
                found = command[at + 1]
    return found


def _first(facts: Facts, pid: int, option: str, key: str) -> ConfiguredEndpoint | None:
    command = _with_kubelet_args(facts.system.process(pid).command)
    value = flag(command, option)
    if value:
        return ConfiguredEndpoint(value, f"--{option}")
    distribution = _DISTRIBUTIONS.get(facts.system.process(pid).name)
    if distribution is not None:
        return _of_distribution(facts, distribution[0], option)
    for file in reversed(list(_files(facts, pid, command))):
        content = _mapping(file)
        if content.get(key):
            return ConfiguredEndpoint(str(content[key]), f"{key} in {_shown(facts, file)}")
    return None


def _with_kubelet_args(command: Sequence[str]) -> list[str]:
    """Return a command with k3s's flags for its kubelet: ``--kubelet-arg=name=value``."""
    kubelet_args = [
        value
        for word in command
        for key, _, value in [word.partition("=")]
        if key == "--kubelet-arg"
    ]
    return [*command, *(f"--{each}" for each in kubelet_args)]


def _of_distribution(facts: Facts, path: str, option: str) -> ConfiguredEndpoint | None:
    file = facts.system.path(path)
    if not file.exists():
        return None
    value = _mapping(file).get(option)
    return ConfiguredEndpoint(str(value), f"{option} in {path}") if value else None


def _files(facts: Facts, pid: int, command: Sequence[str]) -> Iterator[Path]:
    """Yield the kubelet's files by rising precedence: --config, then those of --config-dir."""
    name = flag(command, "config")
    if name:
        yield _of_process(facts, pid, name)
    directory = flag(command, "config-dir")
    if directory:
        yield from sorted(_of_process(facts, pid, directory).glob("*.conf"))


def _of_process(facts: Facts, pid: int, path: str) -> Path:
    """Return where to read a path of a process: a kubelet may run in a container."""
    own = facts.system.link(pid, "root")
    if own not in (None, "/") or facts.system.process(pid).cgroup.container is not None:
        return facts.system.proc / str(pid) / "root" / path.lstrip("/")
    if not path.startswith("/"):
        path = f"{facts.system.link(pid, 'cwd') or '/'}/{path}"
    return facts.system.path(path)


def _mapping(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        raw = opened.read(_MAX_BYTES)
    try:
        content = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no YAML") from error
    return content if isinstance(content, dict) else {}


def _default_runtime(facts: Facts, pid: int) -> str:
    distribution = _DISTRIBUTIONS.get(facts.system.process(pid).name)
    return DEFAULT if distribution is None else distribution[1]


def _shown(facts: Facts, file: Path) -> str:
    if file.is_relative_to(facts.system.root):
        return f"/{file.relative_to(facts.system.root)}"
    return str(file)


def _real(facts: Facts, endpoint: Endpoint) -> str:
    return os.path.realpath(facts.system.path(endpoint.path))
