"""Mounts, and the files that they contain."""

import pytest

from criproxy.doctor.node.mountinfo import Mount, MountLocation, locate, parse, visible_path

ROOT = Mount("8:1", "/", "/")
RUN = Mount("0:21", "/", "/run")
SOCKET = MountLocation("0:21", "/containerd/containerd.sock")
OVERLAY = Mount("0:50", "/", "/")


def test_parse() -> None:
    """Optional fields may be none or many, blanks are octal, and what is no mount is left out."""
    text = (
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw,errors=continue\n"
        "23 22 0:21 /a\\040b /run\\040x rw,nosuid shared:2 master:1 - tmpfs tmpfs rw\n"
        "\n23 22 0:21 / /\n"
    )
    assert parse(text) == [
        Mount("8:1", "/", "/", "ext4", "rw,rw,errors=continue"),
        Mount("0:21", "/a b", "/run x", "tmpfs", "rw,nosuid,rw"),
    ]


@pytest.mark.parametrize("separator", ["\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_mount_points_with_line_separators(separator: str) -> None:
    """A mount point may contain every line separator that the kernel does not escape."""
    point = f"/run/a{separator}b"
    text = f"23 22 0:21 / {point} rw - tmpfs tmpfs rw\n24 22 0:22 / /x rw - tmpfs tmpfs rw\n"
    assert [each.point for each in parse(text)] == [point, "/x"]


@pytest.mark.parametrize(
    ("path", "mounts", "expected"),
    [
        ("/run/containerd/containerd.sock", [ROOT, RUN], SOCKET),
        ("/etc/x", [ROOT, RUN], MountLocation("8:1", "/etc/x")),
        ("/runner/x", [ROOT, RUN], MountLocation("8:1", "/runner/x")),
        ("/srv/x", [ROOT, Mount("8:1", "/data", "/srv")], MountLocation("8:1", "/data/x")),
        ("/srv/x", [Mount("0:1", "/f", "/srv/x")], MountLocation("0:1", "/f")),
        ("/run/x", [ROOT, RUN, Mount("0:22", "/", "/run")], MountLocation("0:22", "/x")),
        ("/x", [RUN], None),
    ],
)
def test_place(path: str, mounts: list[Mount], expected: MountLocation | None) -> None:
    """A file is in the deepest mount above it, in the last where there are several."""
    assert locate(path, mounts) == expected


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ([OVERLAY], None),
        ([OVERLAY, Mount("0:21", "/", "/host/run")], "/host/run/containerd/containerd.sock"),
        ([OVERLAY, Mount("0:21", "/containerd", "/c")], "/c/containerd.sock"),
        ([OVERLAY, Mount("0:21", "/containerd/containerd.sock", "/cri")], "/cri"),
        ([OVERLAY, Mount("0:21", "/containerd/other.sock", "/cri")], None),
        ([OVERLAY, Mount("0:21", "/contain", "/cri")], None),
        ([OVERLAY, Mount("0:22", "/", "/run")], None),
        ([OVERLAY, Mount("0:21", "/", "/run"), Mount("0:9", "/", "/run/containerd")], None),
        ([OVERLAY, Mount("0:21", "/", "/run"), Mount("0:9", "/", "/run")], None),
    ],
)
def test_seen(mounts: list[Mount], expected: str | None) -> None:
    """A file is seen where it or a directory above is mounted and nothing is mounted over it."""
    assert visible_path(SOCKET, mounts) == expected
