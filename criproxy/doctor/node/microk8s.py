"""Reads the flags of the kubelet within MicroK8s's kubelite, which are in a file, one a line."""

import re
from typing import Final

from criproxy.doctor.node.command_flags import flag, split_words
from criproxy.doctor.node.process_files import ProcessFiles, UndeterminedError

_ARGS: Final = "/var/snap/microk8s/current/args/kubelet"
_VARIABLE: Final = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def microk8s_flags(files: ProcessFiles) -> tuple[list[str], str]:
    """Return the kubelet's flags and the file that has them. Raises UndeterminedError."""
    command = files.system.process(files.pid).command
    name = flag(command, "kubelet-args-file") or _ARGS
    variables = _snap_variables(name) | files.system.environment(files.pid)

    def value_of(found: re.Match[str]) -> str:
        variable = found[1] or found[2]
        if variable not in variables:
            why = f"{name} uses ${variable}, which is not known here"
            raise UndeterminedError(why, "run it as root on the node itself")
        return variables[variable]

    words = []
    for line in files.text(files.path(name)).split("\n"):
        if line.strip() and not line.lstrip().startswith("#"):
            words += split_words(_VARIABLE.sub(value_of, line))
    return words, name


def _snap_variables(args: str) -> dict[str, str]:
    """Return snapd's variables, as the path of a file in SNAP_DATA tells them."""
    data = args.removesuffix("/args/kubelet")
    return {"SNAP_DATA": data, "SNAP_COMMON": f"{data.rpartition('/')[0]}/common"}
