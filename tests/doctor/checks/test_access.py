"""The users that may connect to a socket."""

import os
from pathlib import Path

import pytest

from criproxy.doctor.checks.access import (
    SocketAccess,
    access_of,
    can_connect,
    groups_of,
    writable_parent,
)

ROOTS = SocketAccess(0o660, 0, 0)
GROUP = SocketAccess(0o660, 0, 999)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, whose the files are")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (ROOTS, ROOTS, False),
        (GROUP, ROOTS, True),
        (ROOTS, GROUP, False),
        (GROUP, GROUP, False),
        (GROUP, SocketAccess(0o660, 0, 998), True),
        (SocketAccess(0o666, 0, 0), GROUP, True),
        (SocketAccess(0o666, 0, 0), SocketAccess(0o666, 0, 5), False),
        (GROUP, SocketAccess(0o606, 0, 0), False),
        (SocketAccess(0o600, 1000, 0), ROOTS, True),
        (SocketAccess(0o600, 0, 999), ROOTS, False),
        (SocketAccess(0o664, 0, 0), ROOTS, False),
    ],
)
def test_wider(one: SocketAccess, other: SocketAccess, expected: bool) -> None:
    """A mode is wider if it lets a user connect, that is write, whom the other does not."""
    assert one.wider_than(other) is expected


@pytest.mark.parametrize(
    ("access", "uid", "gids", "expected"),
    [
        (SocketAccess(0o000, 5, 5), 0, {0}, True),
        (SocketAccess(0o600, 5, 5), 5, {5}, True),
        (SocketAccess(0o066, 5, 5), 5, {5}, False),
        (SocketAccess(0o606, 5, 5), 6, {5}, False),
        (SocketAccess(0o660, 5, 5), 6, {7, 5}, True),
        (SocketAccess(0o660, 5, 5), 6, {7}, False),
        (SocketAccess(0o662, 5, 5), 6, {7}, True),
    ],
)
def test_grants(access: SocketAccess, uid: int, gids: set[int], expected: bool) -> None:
    """Owner, group and others each have their bits alone, and root may do all."""
    assert access.grants(uid, gids) is expected


@as_root
@pytest.mark.parametrize(
    ("mode", "owner", "expected"),
    [(0o755, 0, False), (0o777, 0, True), (0o1777, 0, False), (0o700, 1000, True)],
)
def test_unguarded(tmp_path: Path, mode: int, owner: int, expected: bool) -> None:
    """Who may write to a directory may replace what is in it, unless it is sticky."""
    directory = tmp_path / "d"
    directory.mkdir()
    os.chown(directory, owner, 0)
    directory.chmod(mode)
    below = directory / "x"
    assert writable_parent(below, tmp_path) == (directory if expected else None)


@as_root
def test_directory_stops(tmp_path: Path) -> None:
    """A socket that everybody may write to is out of reach in a directory that is not."""
    file = tmp_path / "d" / "x"
    file.parent.mkdir(mode=0o700)
    file.touch()
    file.chmod(0o666)
    tmp_path.chmod(0o755)
    assert not can_connect(file, 1000, {1000}, tmp_path)
    assert can_connect(file, 0, {0}, tmp_path)
    file.parent.chmod(0o711)
    assert can_connect(file, 1000, {1000}, tmp_path)


def test_not_there(tmp_path: Path) -> None:
    """An absent socket has no mode, and no user may connect to it."""
    assert access_of(tmp_path / "x") is None
    assert not can_connect(tmp_path / "x", 0, {0}, tmp_path)


def test_groups() -> None:
    """Root is in its group; an unknown user is in none."""
    assert 0 in groups_of(0)
    assert groups_of(3_999_999_999) == set()
