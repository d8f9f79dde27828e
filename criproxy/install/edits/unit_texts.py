"""The texts of criproxy's own units and of its drop-in for the kubelet's unit."""

import re
from importlib.resources import files
from typing import Final

SERVICE: Final = "criproxy.service"
SOCKET: Final = "criproxy.socket"
_UNITS: Final = "units"
"""The directory of this package with the unit files; a link to deploy/systemd in the repository."""

_RUNTIME_DIRECTORY: Final = "/run/criproxy/"


def service_text(program: str, config: str, endpoint_path: str, kubelet_unit: str) -> str:
    """Return the text of criproxy's service: its program, its configuration and its socket."""
    text = re.sub(r"(?m)^ExecStart=.*$", f"ExecStart={program} run -c {config}", _template(SERVICE))
    text = _before(text, kubelet_unit)
    if not endpoint_path.startswith(_RUNTIME_DIRECTORY):
        directory = endpoint_path.rpartition("/")[0] or "/"
        text = text.replace(
            "\n[Install]\n",
            f"# The listener's directory.\nReadWritePaths=-{directory}\n\n[Install]\n",
        )
    return text


def socket_text(endpoint_path: str, kubelet_unit: str) -> str:
    """Return the text of criproxy's socket unit."""
    text = re.sub(r"(?m)^ListenStream=.*$", f"ListenStream={endpoint_path}", _template(SOCKET))
    return _before(text, kubelet_unit)


def drop_in_text(with_socket: bool, exec_start: str) -> str:
    """Return the drop-in of the kubelet's unit; ``exec_start``, if any, replaces its command."""
    units = f"{SOCKET} {SERVICE}" if with_socket else SERVICE
    text = f"# Written by criproxy install.\n[Unit]\nWants={units}\nAfter={units}\n"
    if exec_start:
        text += f"\n[Service]\nExecStart=\nExecStart={exec_start}\n"
    return text


def _before(text: str, kubelet_unit: str) -> str:
    return re.sub(r"(?m)^Before=.*$", f"Before={kubelet_unit}", text)


def _template(name: str) -> str:
    return files("criproxy.install").joinpath(_UNITS, name).read_text(encoding="utf-8")
