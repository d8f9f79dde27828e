"""Determines the endpoint of the kubelet within k3s, from k3s's flags and files.

::

    --kubelet-arg, then kubelet-arg of the configuration file   flags of the kubelet
    DATA_DIR/agent/etc/kubelet.conf.d                           its files (k3s 1.32 and later)
    --container-runtime-endpoint, --docker                      k3s's own options

The configuration file is config.yaml, with the files of config.yaml.d: a key of a later file
replaces that of an earlier one, and is appended to it if it ends in ``+``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from criproxy.doctor.node.command_flags import flag, flags, pair
from criproxy.doctor.node.process_files import ProcessFiles, UndeterminedError
from criproxy.doctor.node.systemd_unit import unit_command, unit_variable

CONTAINERD: Final = "unix:///run/k3s/containerd/containerd.sock"
"""Endpoint of the containerd within k3s and RKE2."""

_CRI_DOCKERD: Final = "unix:///run/k3s/cri-dockerd/cri-dockerd.sock"
"""Endpoint of the cri-dockerd within k3s (``--docker``)."""

_TITLES: Final = (" server", " agent")
"""What k3s writes behind its name in place of its command line, which thereby has one word."""


class Setting(NamedTuple):
    """A value, and the flag or file that sets it."""

    value: str
    source: str


def k3s_endpoint(files: ProcessFiles, option: str, key: str) -> Setting | None:
    """Return what sets an endpoint of the kubelet within k3s; None if nothing does.

    ``option`` is the flag, ``key`` that of KubeletConfiguration. Raises UndeterminedError.
    """
    command = _command(files)
    config_file = _variable(files, "K3S_CONFIG_FILE") or flag(command, "config", "c")
    return setting_of(files, "k3s", command, config_file, option, key)


def config_path(name: str) -> str:
    """Return the path of the configuration file of k3s or RKE2 (``name``)."""
    return f"/etc/rancher/{name}/config.yaml"


def setting_of(
    files: ProcessFiles,
    name: str,
    command: Sequence[str],
    config_file: str | None,
    option: str,
    key: str,
) -> Setting | None:
    """Return what sets an endpoint for k3s or RKE2 (``name``) with this command.

    ``config_file`` is where it was told its configuration is. Raises UndeterminedError.
    """
    config, config_name = _config(files, config_file, config_path(name))
    given = flags(command, "kubelet-arg")
    configured = _strings(config.get("kubelet-arg"))
    if value := pair(given, option):
        return Setting(value, f"--kubelet-arg={option}")
    if value := pair(configured, option):
        if given:
            why = (
                f"{config_name} has kubelet-arg, and so has its command line, which replaces that "
                "in some versions"
            )
            raise UndeterminedError(why, "write all of kubelet-arg into one of them")
        return Setting(value, f"kubelet-arg in {config_name}")
    data = flag(command, "data-dir", "d") or config.get("data-dir") or f"/var/lib/rancher/{name}"
    if found := _in_drop_ins(files, f"{data}/agent/etc/kubelet.conf.d", key):
        return found
    if value := flag(command, option):
        return Setting(value, f"--{option}")
    if value := config.get(option):
        return Setting(str(value), f"{option} in {config_name}")
    if key == "containerRuntimeEndpoint" and (
        config.get("docker") is True or {"--docker", "--docker=true"} & {*command}
    ):
        return Setting(_CRI_DOCKERD, "docker")
    return None


def kubelet_arguments(files: ProcessFiles, config_file: str) -> list[str]:
    """Return ``kubelet-arg`` of a configuration, merged. Raises UndeterminedError."""
    merged, _ = _config(files, None, config_file)
    return _strings(merged.get("kubelet-arg"))


def _command(files: ProcessFiles) -> list[str]:
    """Return the command with its flags: that of the unit where k3s hides them."""
    process = files.system.process(files.pid)
    if len(process.command) > 1 or not process.command[0].endswith(_TITLES):
        return list(process.command)
    if process.cgroup.unit is None or not process.cgroup.unit.endswith(".service"):
        why = "k3s hides its flags, and runs in no service whose unit has them"
        raise UndeterminedError(why, "look at its flags where it is started")
    return unit_command(files, process.cgroup.unit)


def _variable(files: ProcessFiles, name: str) -> str | None:
    """Return a variable of the environment: k3s may have overwritten that in /proc."""
    process = files.system.process(files.pid)
    found = files.system.environment(files.pid).get(name)
    if found is None and process.cgroup.unit is not None:
        found = unit_variable(files, process.cgroup.unit, name)
    return found


def _config(files: ProcessFiles, given: str | None, usual: str) -> tuple[Mapping[str, Any], str]:
    """Return the merged configuration and the name of its file."""
    name = given or usual
    if name.startswith(("http://", "https://")):
        why = "its configuration is at a URL"  # which may contain a password
        raise UndeterminedError(why, "look at it there")
    main, directory = files.path(name), files.path(f"{name}.d")
    found = [main] if main.exists() or (given is not None and not directory.exists()) else []
    if directory.exists():
        found += [
            file for file in files.drop_ins(directory, ".yaml", ".yml") if file.parent == directory
        ]
    merged: dict[str, Any] = {}
    for file in found:
        for written, value in files.mapping(file).items():
            key = str(written).removesuffix("+")
            if key != written and key in merged:
                value = [*_strings(merged[key]), *_strings(value)]
            merged[key] = value
    return merged, name


def _in_drop_ins(files: ProcessFiles, directory: str, key: str) -> Setting | None:
    path = files.path(directory)
    found = None
    for file in files.drop_ins(path, ".conf") if path.exists() else ():
        value = files.mapping(file).get(key)
        if value:
            found = Setting(str(value), f"{key} in {files.shown(file)}")
    return found


def _strings(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]
