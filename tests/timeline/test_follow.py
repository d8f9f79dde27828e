"""A log is followed as it grows, is rotated, and is truncated."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criproxy.errors import UnavailableError
from criproxy.timeline.follow import LINGER, FollowedLog, LineAssembler


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.write_text("old\n")
    return path


def test_appended_lines(path: Path) -> None:
    """Lines come once they are whole; those of before only if they are asked for."""
    log, whole = FollowedLog(path, from_start=False), FollowedLog(path, from_start=True)
    assert log.read(0) == []
    assert whole.read(0) == [b"old"]
    append(path, "one\ntw")
    assert log.read(0) == [b"one"]
    append(path, "o\nthree\n")
    assert log.read(0) == [b"two", b"three"]
    assert whole.read(0) == [b"one", b"two", b"three"]
    log.close()
    whole.close()


def test_a_line_that_is_being_written(path: Path) -> None:
    """A file that ends within a line is followed from that line's beginning."""
    append(path, "hal")
    log = FollowedLog(path, from_start=False)
    append(path, "f\n")
    assert log.read(0) == [b"half"]
    log.close()


def rename(path: Path) -> None:
    path.rename(path.with_suffix(".1"))
    path.touch()


def rename_at_first(path: Path) -> None:
    path.rename(path.with_suffix(".1"))


@pytest.mark.parametrize("rotate", [rename, rename_at_first])
def test_rotation(path: Path, rotate: Callable[[Path], None]) -> None:
    """The old file is read for as long as processes may write to it, beside the new one."""
    log = FollowedLog(path, from_start=False)
    append(path, "before\n")
    rotate(path)
    append(path.with_suffix(".1"), "late\n")
    assert log.read(0) == [b"before", b"late"]
    append(path, "new\n")
    append(path.with_suffix(".1"), "later\n")
    assert log.read(1) == [b"later", b"new"]
    assert log.read(2 + LINGER) == []
    append(path.with_suffix(".1"), "never\n")
    append(path, "newer\n")
    assert log.read(3 + LINGER) == [b"newer"]
    log.close()


def test_many_rotations(path: Path) -> None:
    """Rotation after rotation loses nothing and keeps few files open."""
    log = FollowedLog(path, from_start=False)
    read = []
    for number in range(20):
        append(path, f"{number}\n")
        read += log.read(0)
        path.rename(path.with_suffix(f".{number}"))
        path.touch()
    append(path, "last\n")
    read += log.read(0)
    assert read == [*(b"%d" % number for number in range(20)), b"last"]
    log.close()


def test_truncation(path: Path) -> None:
    """A file that is truncated in place is read from its beginning."""
    log = FollowedLog(path, from_start=False)
    append(path, "a long line before\npart")
    assert log.read(0) == [b"a long line before"]
    path.write_text("new\n")
    assert log.read(0) == [b"new"]
    log.close()


def test_no_file(path: Path) -> None:
    """What cannot be followed is one error that says what to name."""
    with pytest.raises(UnavailableError, match=r"No such file or directory; name the log"):
        FollowedLog(path.with_name("missing"), from_start=False)
    with pytest.raises(UnavailableError, match="is no file"):
        FollowedLog(path.parent, from_start=False)


@given(st.lists(st.binary(max_size=12)), st.integers(1, 8))
def test_pieces(lines: list[bytes], longest: int) -> None:
    """However lines are cut, they come whole, without those that are too long, which count."""
    lines = [line.replace(b"\n", b"") for line in lines]
    data = b"".join(line + b"\n" for line in lines)
    short = [line for line in lines if len(line) <= longest]
    for size in (1, 3, max(len(data), 1)):
        assembler = LineAssembler(longest)
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert [line for piece in pieces for line in assembler.feed(piece)] == short
        assert assembler.discarded == len(lines) - len(short)
