"""LineWriter: files, pipes and write errors."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from criproxy.errors import UnavailableError
from criproxy.observe.logs import line_writer as module
from criproxy.observe.logs.line_writer import LineWriter
from tests.support.waiting import LIMIT_SECONDS, wait_until


class Disk:
    """A substitute for ``os.write`` that can be full and keeps what was written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = threading.Event()
        self.room: int | None = None  # bytes until it is full
        self.attempts = 0
        self._write = os.write
        monkeypatch.setattr(module.os, "write", self)
        monkeypatch.setattr(module, "_RETRY", 0.01)

    def __call__(self, fd: int, data: bytes) -> int:
        if threading.current_thread().name == "log writer":
            self.attempts += 1
            if self.room is not None:
                data, self.room = data[: self.room], None
                self.full.set()
            elif self.full.is_set():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._write(fd, data)

    def tried_again(self) -> None:
        """Wait until at least one further write was tried."""
        before = self.attempts
        wait_until(lambda: self.attempts > before + 1, "another attempt")


class Lost:
    count = 0

    def __call__(self, lines: int) -> None:
        self.count += lines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log" / "criproxy.log"


@pytest.fixture
def lost() -> Lost:
    return Lost()


@pytest.fixture
def writer(path: Path, lost: Lost) -> Iterator[LineWriter]:
    writer = LineWriter(str(path), lost)
    yield writer
    writer.close()


def test_lines_arrive_in_order(path: Path, writer: LineWriter) -> None:
    """Lines of one thread keep their order, and closing writes the remaining ones."""
    lines = [b"line %d\n" % number for number in range(10_000)]
    for line in lines:
        writer.write(line)
    writer.close()
    assert path.read_bytes() == b"".join(lines)


def test_lines_of_several_threads_stay_whole(path: Path, writer: LineWriter) -> None:
    """Threads may write at once: no line is lost or torn."""

    def write(letter: bytes) -> None:
        for _ in range(1000):
            writer.write(letter * 50 + b"\n")

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert sorted(path.read_bytes().splitlines()) == sorted(
        letter * 50 for letter in (b"a", b"b", b"c") for _ in range(1000)
    )


def test_lines_are_written_without_being_asked(path: Path, writer: LineWriter) -> None:
    """A line is written soon, also after an idle time."""
    for expected in (b"one\n", b"one\ntwo\n"):
        writer.write(expected[-4:])
        wait_until(lambda expected=expected: path.read_bytes() == expected, "line")  # type: ignore[misc]


def test_file_is_appended_to(path: Path, lost: Lost) -> None:
    """Lines are appended, and a new file is readable by owner and group only."""
    for line in (b"old\n", b"new\n"):
        writer = LineWriter(str(path), lost)
        writer.write(line)
        writer.close()
    assert path.read_bytes() == b"old\nnew\n"
    assert path.stat().st_mode & 0o137 == 0


def test_file_that_cannot_be_opened(tmp_path: Path, lost: Lost) -> None:
    """A file that cannot be opened is one error line with the path and remedy."""
    with pytest.raises(UnavailableError, match=r"cannot open the log file .*log\.file"):
        LineWriter(str(tmp_path), lost)


def test_reopened_after_rotation(path: Path, writer: LineWriter) -> None:
    """After a rotation lines are written to a new file of the old name."""
    writer.write(b"one\n")
    wait_until(lambda: path.read_bytes() == b"one\n", "line")
    rotated = path.rename(path.with_suffix(".1"))
    writer.reopen()
    writer.write(b"two\n")
    writer.close()
    assert (rotated.read_bytes(), path.read_bytes()) == (b"one\n", b"two\n")


def test_failed_reopening_keeps_the_file(
    path: Path, writer: LineWriter, capfd: pytest.CaptureFixture[str]
) -> None:
    """If the file cannot be reopened, the old one stays in use and stderr has an error."""
    rotated = path.rename(path.with_suffix(".1"))
    path.mkdir()
    writer.reopen()
    writer.write(b"line\n")
    writer.close()
    assert rotated.read_bytes() == b"line\n"
    assert "cannot open the log file" in capfd.readouterr().err


def test_reopening_never_lends_its_descriptor(path: Path, writer: LineWriter) -> None:
    """The descriptor that lines are written to stays the log's, however often it is reopened: one
    that is closed while a line is under way could be a client's socket by then."""
    (descriptor,) = [
        int(fd) for fd in os.listdir("/proc/self/fd") if leads_to(path, f"/proc/self/fd/{fd}")
    ]
    for _ in range(3):
        path.rename(path.with_suffix(".1"))
        writer.reopen()
        assert leads_to(path, f"/proc/self/fd/{descriptor}")
    assert not os.get_inheritable(descriptor)


def leads_to(path: Path, descriptor: str) -> bool:
    try:
        return os.readlink(descriptor) == str(path)
    except OSError:
        return False


def test_full_disk(
    path: Path,
    writer: LineWriter,
    lost: Lost,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """While the disk is full lines wait in order, and one error is printed."""
    disk = Disk(monkeypatch)
    disk.full.set()
    for number in range(3):
        writer.write(b"line %d\n" % number)
        disk.tried_again()
    disk.full.clear()
    wait_until(lambda: path.read_bytes() == b"line 0\nline 1\nline 2\n", "lines")
    assert lost.count == 0
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith(f"criproxy: cannot write the log to {path}: No space left")


def test_line_that_was_cut_short(
    path: Path, writer: LineWriter, lost: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written again as a whole, and another process does not continue its fragment."""
    disk = Disk(monkeypatch)
    disk.room = 12
    writer.write(b"one one\ntwo two\n")
    wait_until(lambda: path.read_bytes() == b"one one\ntwo ", "a short write")
    disk.tried_again()
    append = "import sys; from criproxy.observe.logs.line_writer import LineWriter as Writer;"
    append += "writer = Writer(sys.argv[1], print); writer.write(b'other\\n'); writer.close()"
    subprocess.run([sys.executable, "-c", append, str(path)], check=True)
    disk.full.clear()
    expected = b"one one\ntwo \nother\ntwo two\n"
    wait_until(lambda: path.read_bytes() == expected, "the line")
    writer.close()
    assert path.read_bytes() == expected
    assert lost.count == 0


def test_fragment_of_an_earlier_process(path: Path, lost: Lost) -> None:
    """What a process has left that was killed within a line does not spoil the next line."""
    path.parent.mkdir()
    path.write_bytes(b"whole\nfragm")
    writer = LineWriter(str(path), lost)
    writer.write(b"line\n")
    writer.close()
    assert path.read_bytes() == b"whole\nfragm\nline\n"


def test_pipe_as_the_file(tmp_path: Path, lost: Lost) -> None:
    """A named pipe is opened for writing alone: its reader sees the end."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer = LineWriter(str(fifo), lost)
    writer.write(b"line\n")
    writer.close()
    with open(reading, "rb") as pipe:
        wait_until(lambda: pipe.read(5) == b"line\n", "line")
        os.close(writer._fd)
        assert pipe.read() == b""


def test_lines_above_the_limit_are_lost_and_counted(
    path: Path, writer: LineWriter, lost: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting lines are bounded, and a line reports the number of lost ones."""
    monkeypatch.setattr(module, "LARGEST_QUEUE", 10_000)
    disk = Disk(monkeypatch)
    disk.full.set()
    line = b"x" * 99 + b"\n"
    for _ in range(20):
        for _ in range(100):
            writer.write(line)
        disk.tried_again()
    disk.full.clear()
    wait_until(lambda: path.read_bytes().endswith(b"log lines lost\n"), "report of lost lines")
    kept = path.read_bytes().splitlines(keepends=True)
    assert kept[-1] == b"%d log lines lost\n" % lost.count
    assert set(kept[:-1]) == {line}
    assert len(kept) - 1 + lost.count == 2000
    assert len(kept) - 1 <= 200


def test_lines_that_are_never_written_are_counted(
    path: Path, writer: LineWriter, lost: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines that cannot be written at the end are counted as lost."""
    disk = Disk(monkeypatch)
    disk.full.set()
    writer.write(b"one\n")
    disk.tried_again()
    writer.write(b"two\n")
    writer.write(b"three\n")
    writer.close()
    assert lost.count == 3
    assert path.read_bytes() == b""


def test_stuck_reader_blocks_no_writer(monkeypatch: pytest.MonkeyPatch, lost: Lost) -> None:
    """A stderr that is not read does not block writers: lines wait, then are lost."""
    reading, writing = os.pipe()

    class Stderr:
        def fileno(self) -> int:
            return writing

    monkeypatch.setattr(module, "LARGEST_QUEUE", 1 << 20)
    with monkeypatch.context() as patch:
        patch.setattr(module.sys, "stderr", Stderr())
        writer = LineWriter(None, lost)
        line = b"y" * 999 + b"\n"
        for _ in range(5000):
            writer.write(line)
        wait_until(lambda: lost.count, "loss")
        writer.reopen()  # which means nothing here
        writer.close(within=0.01)
    os.close(reading)
    wait_until(lambda: "log writer" not in {each.name for each in threading.enumerate()}, "end")
    os.close(writing)
    assert lost.count <= 5000


@pytest.mark.parametrize("to_file", [True, False], ids=["file", "pipe"])
def test_lines_of_several_processes_do_not_interleave(
    monkeypatch: pytest.MonkeyPatch, path: Path, lost: Lost, to_file: bool
) -> None:
    """Writers that share a file or pipe, as processes do, write whole lines in order."""
    reading, writing = os.pipe()

    class Stderr:
        def fileno(self) -> int:
            return writing

    received = bytearray()

    def read() -> None:
        while data := os.read(reading, 1 << 16):
            received.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    with monkeypatch.context() as patch:
        patch.setattr(module.sys, "stderr", Stderr())
        writers = [LineWriter(str(path) if to_file else None, lost) for _ in range(4)]
        for number in range(3000):
            for name, writer in enumerate(writers):
                writer.write(b"%d %d %b\n" % (name, number, b"x" * (number * 7 % 4000)))
        for writer in writers:
            writer.close(within=LIMIT_SECONDS)
    os.close(writing)
    reader.join()
    os.close(reading)
    lines = (path.read_bytes() if to_file else bytes(received)).splitlines()
    for name in range(4):
        numbers = [int(line.split()[1]) for line in lines if line.startswith(b"%d " % name)]
        assert numbers == list(range(3000))
    assert len(lines) == 12_000 - lost.count == 12_000
    assert all(len(line.split(b" ")[2]) == int(line.split()[1]) * 7 % 4000 for line in lines)
