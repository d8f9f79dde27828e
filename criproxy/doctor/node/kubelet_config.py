"""Determines a kubelet's endpoints from its command line, then from its configuration files.

Distributions that embed the kubelet, or start it, have flags and files of their own. What cannot be
determined is an UndeterminedError, never a guess.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from criproxy.doctor.node.command_flags import flag
from criproxy.doctor.node.facts import Facts
from criproxy.doctor.node.k3s import CONTAINERD, Setting, k3s_endpoint
from criproxy.doctor.node.microk8s import microk8s_flags
from criproxy.doctor.node.process_files import ProcessFiles, UndeterminedError
from criproxy.doctor.node.system import Process
from criproxy.errors import EndpointError
from criproxy.relay.endpoints import Endpoint, parse_endpoint

DEFAULT: Final = "unix:///run/containerd/containerd.sock"
"""Default of containerRuntimeEndpoint in KubeletConfiguration v1beta1."""

_RUNTIME: Final = ("container-runtime-endpoint", "containerRuntimeEndpoint")
_IMAGES: Final = ("image-service-endpoint", "imageServiceEndpoint")
"""The flag, and the key of KubeletConfiguration."""

_SUPERVISORS: Final = ("rke2", "k0s")
"""Programs that run the kubelet as a process of its own, with flags and files that they write."""


@dataclass(frozen=True, slots=True)
class ConfiguredEndpoint:
    """An endpoint and the flag or file that sets it."""

    endpoint: str
    source: str


def runtime_endpoint_of(facts: Facts, pid: int) -> ConfiguredEndpoint:
    """Return a kubelet's runtime endpoint. Raises UndeterminedError."""
    found = _configured(facts, pid, *_RUNTIME)
    if found is not None:
        return found
    embedded = distribution_of(facts.system.process(pid)) == "k3s"
    return ConfiguredEndpoint(CONTAINERD if embedded else DEFAULT, "its default")


def image_endpoint_of(facts: Facts, pid: int) -> ConfiguredEndpoint | None:
    """Return a separate image endpoint, else None. Raises UndeterminedError."""
    return _configured(facts, pid, *_IMAGES)


def uses_criproxy(facts: Facts, pid: int) -> bool | None:
    """Return whether a kubelet's runtime endpoint is one of the listeners; None: undetermined."""
    try:
        return profile_at(facts, runtime_endpoint_of(facts, pid).endpoint) is not None
    except UndeterminedError:
        return None


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


def distribution_of(process: Process) -> str | None:
    """Return the distribution that a kubelet belongs to, by its executable; None if unknown."""
    path = process.executable or (process.command[0] if process.command else "")
    if "/rancher/rke2/" in path or process.name == "rke2":
        return "rke2"
    if "/rancher/k3s/" in path or process.name.startswith("k3s"):
        return "k3s"
    if process.name == "kubelite" or "/snap/microk8s/" in path:
        return "microk8s"
    if process.name == "k0s" or "/k0s/" in path:
        return "k0s"
    return None


def is_supervisor(process: Process) -> bool:
    """Return whether a program starts the kubelet as another process."""
    return process.name in _SUPERVISORS


def _configured(facts: Facts, pid: int, option: str, key: str) -> ConfiguredEndpoint | None:
    process = facts.system.process(pid)
    if not any(process.command):
        raise UndeterminedError("its command line cannot be read", "run it as root")
    if is_supervisor(process):
        raise UndeterminedError("its kubelet is not seen to run", "run it again once it does")
    files = ProcessFiles(facts.system, pid)
    distribution = distribution_of(process)
    if distribution == "k3s":
        return _as_endpoint(k3s_endpoint(files, option, key))
    if process.name == "kubelite":
        command, name = microk8s_flags(files)
        return _of_kubelet(files, command, option, key, f" in {name}")
    return _of_kubelet(files, process.command, option, key, "")


def _as_endpoint(setting: Setting | None) -> ConfiguredEndpoint | None:
    return None if setting is None else ConfiguredEndpoint(*setting)


def _of_kubelet(
    files: ProcessFiles, command: Sequence[str], option: str, key: str, where: str
) -> ConfiguredEndpoint | None:
    """Return what flags set, which take precedence, else the last of the files."""
    value = flag(command, option)
    if value:
        return ConfiguredEndpoint(value, f"--{option}{where}")
    found = None
    for file in _files(files, command):
        content = files.mapping(file)
        if key in content:  # null or an empty text is the default
            value = content[key]
            source = f"{key} in {files.shown(file)}"
            found = ConfiguredEndpoint(str(value), source) if value else None
    return found


def _files(files: ProcessFiles, command: Sequence[str]) -> Iterator[Path]:
    """Yield the kubelet's files by rising precedence: --config, then the tree of --config-dir."""
    name = flag(command, "config")
    if name:
        yield files.path(name)
    directory = flag(command, "config-dir")
    if directory:
        path = files.path(directory)
        if path.is_symlink():  # the kubelet does not follow it, and its versions may differ
            why = f"--config-dir={directory} is a symbolic link"
            raise UndeterminedError(why, "name the directory itself")
        yield from files.drop_ins(path, ".conf")


def _real(facts: Facts, endpoint: Endpoint) -> str:
    return os.path.realpath(facts.system.path(endpoint.path))
