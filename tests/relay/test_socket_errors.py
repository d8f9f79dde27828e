"""Descriptions of socket errors."""

import os

import pytest

from criproxy.relay.socket_errors import describe_error

DENIED = PermissionError(13, "Permission denied")
ABSENT = FileNotFoundError(2, "No such file or directory")


@pytest.mark.parametrize(
    ("path", "uid", "error", "part"),
    [
        ("/run/x.sock", 0, DENIED, "SELinux or AppArmor"),
        ("/run/x.sock", 1000, DENIED, None),
        ("/run/x.sock", 0, ABSENT, None),
        ("/run/user/1000/containerd/containerd.sock", 0, ABSENT, "ProtectHome=no"),
        ("/home/me/x.sock", 1000, DENIED, "ProtectHome=no"),
        ("/run/user/1000/x.sock", 0, ConnectionRefusedError(111, "Connection refused"), None),
        ("/run/x.sock", 0, OSError("other"), None),
    ],
)
def test_hints(
    monkeypatch: pytest.MonkeyPatch, path: str, uid: int, error: OSError, part: str | None
) -> None:
    """Root is denied by a security module, and a unit's ProtectHome hides homes."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    described = describe_error(path, error)
    assert described.startswith(error.strerror or str(error))
    assert part in described if part else described == (error.strerror or str(error))
