"""Describes why a socket cannot be reached, with a hint where the cause is a known one."""

import os
from typing import Final

_HIDDEN: Final = ("/run/user/", "/home/", "/root/")
"""What ProtectHome hides from a service: the sockets of rootless runtimes are there."""


def describe_error(path: str, error: OSError) -> str:
    """Return in a few words why the socket at a path cannot be reached."""
    text = error.strerror or str(error)
    if isinstance(error, PermissionError) and os.geteuid() == 0:
        return (
            f"{text}, though this is root: look for denials by SELinux or AppArmor (journalctl -k)"
        )
    if isinstance(error, FileNotFoundError | PermissionError) and path.startswith(_HIDDEN):
        return f"{text}; if a systemd unit has ProtectHome=yes, that hides it: set ProtectHome=no"
    return text
