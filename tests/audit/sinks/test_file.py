"""The file outlet: records are whole, ordered and chained, whatever happens to file and disk."""

import errno
import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from criproxy.audit.counts import SinkCounts
from criproxy.audit.files.hash_chain import GENESIS
from criproxy.audit.files.rotation import rotated_files
from criproxy.audit.sinks.file import FileOutlet
from criproxy.audit.spec import FileSpec, RotateSpec
from criproxy.configtypes.values import Duration, Mode, Size
from criproxy.errors import UnavailableError
from tests.support.audit_lines import (
    Pipeline,
    files_of,
    item,
    lines_of,
    numbers,
    record,
    reported,
    sink,
    verify,
)
from tests.support.mounts import unmount_below
from tests.support.requirements import require
from tests.support.waiting import wait_until

Opener = Callable[..., FileOutlet]

_DAY_NS = 86_400 * 10**9


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log" / "audit.jsonl"


@pytest.fixture
def errors() -> list[str]:
    return []


@pytest.fixture
def outlet(path: Path, errors: list[str]) -> Iterator[Opener]:
    """Opens outlets and closes them after the test."""
    opened: list[FileOutlet] = []

    def open_one(
        rotate: RotateSpec | None = None, chain: bool = True, fsync: Any = "none", **given: Any
    ) -> FileOutlet:
        spec = FileSpec(
            path=str(path), chain=chain, fsync=fsync, rotate=rotate or RotateSpec(compress=False)
        )
        given.setdefault("log_error", errors.append)
        opened.append(FileOutlet(spec, **given))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def fill(outlet: FileOutlet, first: int, last: int, padding: int = 0) -> None:
    """Write records of these numbers, each in its own batch."""
    for number in range(first, last):
        progress = outlet.write([record(number, padding)])
        assert (progress.done, progress.trouble) == (1, "")


def test_a_file_is_made_with_its_directory_and_mode(tmp_path: Path) -> None:
    """Parent directories are created, and the mode is as configured, whatever the umask is."""
    path = tmp_path / "a" / "b" / "audit.jsonl"
    before = os.umask(0o077)
    try:
        FileOutlet(FileSpec(path=str(path), mode=Mode(0o640)), pytest.fail).close()
    finally:
        os.umask(before)

    assert path.stat().st_mode & 0o777 == 0o640


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    """A file that cannot be opened is one error line that names it."""
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError, match=r"cannot open the audit log .*; set its path"):
        FileOutlet(FileSpec(path=str(tmp_path / "file" / "audit.jsonl")), pytest.fail)


def test_a_pipe_is_no_audit_log(tmp_path: Path) -> None:
    """A path that is no regular file is an error."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UnavailableError, match="no regular file"):
        FileOutlet(FileSpec(path=str(tmp_path / "fifo")), pytest.fail)


def test_a_batch_is_one_write(outlet: Opener, path: Path) -> None:
    """A batch is written with one system call."""
    sizes: list[int] = []

    def write(fd: int, data: memoryview) -> int:
        sizes.append(len(data))
        return os.write(fd, data)

    lines = [record(number) for number in range(100)]
    progress = outlet(chain=False, write=write).write(lines)

    assert progress.done == 100
    assert sizes == [path.stat().st_size]
    assert lines_of(path) == lines


def test_the_chain_goes_on_after_a_restart(outlet: Opener, path: Path) -> None:
    """A new process chains its first record to the last one of the previous process."""
    one = outlet()
    fill(one, 0, 5)
    one.close()
    fill(outlet(), 5, 10)

    verdict = verify(path)
    assert (verdict.broken, verdict.records, verdict.first) == (None, 10, GENESIS)


@pytest.mark.parametrize("torn", [b'{"kind":"Ev', b"\x00\x00", b'{"kind":"Event"'])
def test_a_torn_last_line_is_closed_off(outlet: Opener, path: Path, torn: bytes) -> None:
    """After a torn line the next record is on its own line and in the chain."""
    one = outlet()
    fill(one, 0, 3)
    one.close()
    with path.open("ab") as file:
        file.write(torn)
    fill(outlet(), 3, 6)

    verdict = verify(path)
    assert (verdict.broken, verdict.records, verdict.torn) == (None, 6, (4,))


def test_a_last_line_that_lacks_but_its_newline_counts(outlet: Opener, path: Path) -> None:
    """A record without its newline is part of the chain."""
    one = outlet()
    fill(one, 0, 3)
    one.close()
    os.truncate(path, path.stat().st_size - 1)
    fill(outlet(), 3, 6)

    verdict = verify(path)
    assert (verdict.broken, verdict.records, verdict.torn) == (None, 6, ())


def test_a_file_is_put_aside_by_size(outlet: Opener, path: Path) -> None:
    """Rotated files are within the limit and not empty, and the chain spans all of them."""
    one = outlet(RotateSpec(size=Size(4096), keep=None, compress=False))
    one.write([record(number) for number in range(40)])
    fill(one, 40, 80)

    aside = rotated_files(path)
    assert [file.number for file in aside] == list(range(1, len(aside) + 1))
    assert len(aside) > 3
    assert all(0 < file.stat().st_size <= 4096 for file in files_of(path))
    assert numbers(lines_of(*files_of(path))) == list(range(80))
    assert verify(path).broken is None


def test_a_record_larger_than_the_limit_has_a_file_to_itself(outlet: Opener, path: Path) -> None:
    """A record is never cut, and never makes an empty file."""
    one = outlet(RotateSpec(size=Size(1000), keep=None, compress=False))
    fill(one, 0, 3, padding=3000)

    assert [len(lines_of(file)) for file in files_of(path)] == [1, 1, 1]


def test_a_file_is_put_aside_by_age(outlet: Opener, path: Path) -> None:
    """A file's age is its first record's, also after a restart, and an empty file has none."""
    now = 1_795_429_800_123_456_789  # when record 0 is of
    rotate = RotateSpec(age=Duration(86_400), keep=None, compress=False)
    one = outlet(rotate, wall_ns=lambda: now)
    assert one.pause() is None
    fill(one, 0, 1)
    assert one.idle() == ""
    one.close()
    assert rotated_files(path) == []

    now += _DAY_NS + 1_000_000
    two = outlet(rotate, wall_ns=lambda: now)
    assert two.pause() == 0
    assert two.idle() == ""

    assert len(rotated_files(path)) == 1
    assert path.stat().st_size == 0
    assert two.pause() is None


def test_an_empty_file_does_not_age(outlet: Opener, path: Path) -> None:
    """A file that has waited for its first record for long is as old as that record."""
    now = 1_795_429_800_000_000_000
    one = outlet(RotateSpec(age=Duration(86_400), compress=False), wall_ns=lambda: now)
    now += 2 * _DAY_NS
    fill(one, 0, 2)

    assert one.pause() == 86_400
    assert rotated_files(path) == []


@pytest.mark.parametrize("names", [("", ".gz"), (".gz", "")])
def test_what_is_there_both_ways_counts_once(path: Path, names: tuple[str, str]) -> None:
    """Of a file that exists plain and compressed, the compressed one is read."""
    path.parent.mkdir()
    for name in names:
        path.with_name(f"audit.jsonl.00000001-20260101T000000Z{name}").touch()

    assert [file.compressed for file in rotated_files(path)] == [True]


def test_the_order_does_not_hang_on_the_clock(outlet: Opener, path: Path) -> None:
    """A clock that is set back does not change the order of files."""
    times = iter(range(1_795_429_800 * 10**9, 0, -_DAY_NS))
    one = outlet(RotateSpec(size=Size(500), keep=None, compress=False), wall_ns=lambda: next(times))
    fill(one, 0, 10)

    assert numbers(lines_of(*files_of(path))) == list(range(10))
    assert verify(path).broken is None


def test_the_chain_goes_on_from_files_put_aside(outlet: Opener, path: Path) -> None:
    """Without a current file, the chain continues from the newest rotated one."""
    one = outlet(RotateSpec(size=Size(2000), compress=True))
    fill(one, 0, 20)
    wait_until(lambda: all(file.compressed for file in rotated_files(path)), "compression")
    one.close()
    path.rename(path.with_name("audit.jsonl.00000099-20300101T000000Z"))
    path.touch()
    two = outlet(RotateSpec(compress=True))
    fill(two, 20, 21)
    two.close()
    path.rename(path.with_name("audit.jsonl.00000100-20300101T000000Z"))
    three = outlet()
    fill(three, 21, 22)

    assert numbers(lines_of(*files_of(path))) == list(range(22))
    assert verify(path).broken is None


def test_what_is_put_aside_is_compressed(outlet: Opener, path: Path) -> None:
    """Compressed files have the same mode and contents, and the plain ones are removed."""
    one = outlet(RotateSpec(size=Size(4096), keep=None))
    fill(one, 0, 60)

    def is_done() -> bool:
        files = rotated_files(path)
        whole = len(files) == len(list(path.parent.iterdir())) - 1
        return whole and all(file.compressed for file in files)

    wait_until(is_done, "compression, and removal of the plain files")
    assert {file.stat().st_mode & 0o777 for file in files_of(path)} == {0o600}
    assert numbers(lines_of(*files_of(path))) == list(range(60))
    assert verify(path).broken is None


def test_a_compression_that_was_cut_off_counts_nothing_twice(outlet: Opener, path: Path) -> None:
    """An interrupted compression is repeated; a plain file beside its compressed one is removed."""
    one = outlet(RotateSpec(size=Size(4096), keep=None, compress=False))
    fill(one, 0, 60)
    one.close()
    first, second, *_ = rotated_files(path)
    partial = first.path.with_name(f"{first.path.name}.gz.partial")
    partial.write_bytes(b"half")
    is_whole = second.path.with_name(f"{second.path.name}.gz")
    is_whole.write_bytes(gzip.compress(second.path.read_bytes()))
    assert numbers(lines_of(*files_of(path))) == list(range(60))

    outlet(RotateSpec(size=Size(4096), keep=None))
    wait_until(lambda: all(file.compressed for file in rotated_files(path)), "compression")

    assert not partial.exists()
    wait_until(lambda: not second.path.exists(), "the removal of the original")
    assert numbers(lines_of(*files_of(path))) == list(range(60))


def test_only_so_many_are_kept(outlet: Opener, path: Path) -> None:
    """The oldest rotated files are removed, and the chain of the others holds."""
    one = outlet(RotateSpec(size=Size(2000), keep=3))
    fill(one, 0, 60)
    wait_until(lambda: [file.compressed for file in rotated_files(path)] == [True] * 3, "pruning")

    assert numbers(lines_of(*files_of(path)))[-1] == 59
    verdict = verify(path)
    assert verdict.broken is None
    assert verdict.first != GENESIS


def test_the_total_is_capped(outlet: Opener, path: Path) -> None:
    """All files together stay within the total; the oldest are removed."""
    one = outlet(RotateSpec(size=Size(2000), keep=None, total=Size(10_000), compress=False))
    fill(one, 0, 100)
    wait_until(lambda: sum(f.stat().st_size for f in files_of(path)) <= 10_000, "pruning")

    assert numbers(lines_of(*files_of(path)))[-1] == 99
    assert len(rotated_files(path)) >= 3


def test_without_a_size_the_total_is_capped_as_the_file_grows(outlet: Opener, path: Path) -> None:
    """Without a size limit, rotated files are removed while the current file grows."""
    one = outlet(RotateSpec(size=Size(2000), keep=None, compress=False))
    fill(one, 0, 30)
    one.close()
    assert len(rotated_files(path)) > 1

    fill(outlet(RotateSpec(size=None, keep=None, total=Size(10_000), compress=False)), 30, 80)
    wait_until(lambda: not rotated_files(path), "pruning")


def test_a_file_that_was_moved_is_made_anew(outlet: Opener, path: Path) -> None:
    """After logrotate has moved the file, the chain continues in a new one."""
    one = outlet()
    fill(one, 0, 3)
    moved = path.with_name("audit.jsonl.1")
    path.rename(moved)
    one.reopen()
    assert one.idle() == ""
    assert path.exists()
    fill(one, 3, 6)

    assert numbers(lines_of(moved)) == [0, 1, 2]
    assert numbers(lines_of(moved, path)) == list(range(6))
    assert json.loads(lines_of(path)[0])["sequence"] == 4


def test_a_file_that_was_removed_with_its_directory_is_made_anew(
    outlet: Opener, path: Path
) -> None:
    """No record is written to a file that was moved away."""
    one = outlet()
    fill(one, 0, 3)
    path.unlink()
    path.parent.rmdir()
    fill(one, 3, 6)

    assert numbers(lines_of(path)) == [3, 4, 5]


def test_a_cut_off_end_shows_while_the_writer_runs(outlet: Opener, path: Path) -> None:
    """Removing the last records under a running writer breaks the chain."""
    one = outlet()
    fill(one, 0, 3)
    path.write_bytes(lines_of(path)[0] + b"\n")
    fill(one, 3, 4)

    broken = verify(path).broken
    assert broken is not None
    assert broken.kind == "removed"


def test_two_processes_keep_to_one_chain(outlet: Opener, path: Path) -> None:
    """Two processes that write alternately, as during an upgrade, continue one chain."""
    rotate = RotateSpec(size=Size(2000), keep=None, compress=False)
    one, two = outlet(rotate), outlet(rotate)
    for number in range(0, 40, 2):
        fill(one, number, number + 1)
        fill(two, number + 1, number + 2)

    assert numbers(lines_of(*files_of(path))) == list(range(40))
    assert verify(path).broken is None


class Disk:
    """A disk that has room for a number of bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, fd: int, data: memoryview) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = os.write(fd, data[: self.room])
        self.room -= written
        return written


def test_a_partial_write_is_finished(outlet: Opener, path: Path) -> None:
    """A line that a full disk cut off is completed when there is room."""
    disk = Disk(250)
    one = outlet(write=disk.write)
    lines = [record(number) for number in range(3)]
    progress = one.write(lines)
    assert progress.done < 3
    assert "No space left on device" in progress.trouble
    assert path.stat().st_size == 250
    disk.room = 10_000
    assert one.write(lines[progress.done :]).trouble == ""

    assert (verify(path).records, verify(path).torn, verify(path).broken) == (3, (), None)


def test_a_partial_write_is_taken_back_where_it_cannot_be_finished(
    outlet: Opener, path: Path
) -> None:
    """A partial line in a moved file is written whole to the next file."""
    disk = Disk(250)
    one = outlet(write=disk.write)
    progress = one.write([record(0), record(1)])
    moved = path.with_name("audit.jsonl.1")
    path.rename(moved)
    disk.room = 10_000
    assert one.write([record(0), record(1)][progress.done :]).done == 2 - progress.done

    assert numbers(lines_of(moved, path)) == [0, 1]


def test_a_partial_write_is_closed_off_when_something_came_behind(
    outlet: Opener, path: Path
) -> None:
    """A partial line with another process' bytes behind it stays torn and is written again."""
    disk = Disk(250)
    one = outlet(write=disk.write)
    lines = [record(0, padding=300), record(1)]
    assert one.write(lines).done == 0
    with path.open("ab") as file:
        file.write(b"\x00")
    disk.room = 10_000
    assert one.write(lines).done == 2

    verdict = verify(path)
    assert (verdict.records, verdict.torn, verdict.broken) == (2, (1,), None)


@pytest.mark.parametrize(("fsync", "times"), [("none", 0), ("always", 3)])
def test_fsync_is_as_asked_for(outlet: Opener, fsync: str, times: int) -> None:
    """``none`` never syncs, ``always`` syncs each batch."""
    synced: list[int] = []
    fill(outlet(chain=False, fsync=fsync, sync=synced.append), 0, 3)

    assert len(synced) == times


def test_fsync_comes_at_intervals(outlet: Opener) -> None:
    """``interval`` syncs once per interval in which something was written."""
    clock = 100.0
    synced: list[int] = []
    one = outlet(fsync="interval", sync=synced.append, monotonic=lambda: clock)
    fill(one, 0, 3)
    assert (len(synced), one.pause()) == (0, 1.0)

    clock += 1
    assert one.pause() == 0.0
    assert one.idle() == ""
    assert (len(synced), one.pause()) == (1, None)

    fill(one, 3, 4)
    clock += 1
    fill(one, 4, 5)
    assert len(synced) == 2


def test_a_failed_fsync_is_logged_and_not_durable(outlet: Opener) -> None:
    """After a failed sync records are not reported as durable."""

    def sync(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    progress = outlet(fsync="always", sync=sync).write([record(0)])

    assert (progress.done, progress.durable) == (1, False)
    assert "Input/output error" in progress.trouble


def test_a_file_that_cannot_be_put_aside_grows(
    outlet: Opener, path: Path, errors: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed rotation loses no records and is logged once."""

    def rename(self: Path, target: Path) -> Path:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "rename", rename)
    fill(outlet(RotateSpec(size=Size(1000), compress=False)), 0, 20)

    assert numbers(lines_of(path)) == list(range(20))
    assert len(errors) == 1
    assert "cannot put the audit log" in errors[0]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    require(["root, to mount a small disk"] if os.geteuid() else [])
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    subprocess.run(command, check=True, capture_output=True)
    yield disk
    unmount_below(disk)


def _fill_disk(disk: Path) -> Path:
    """Fill a disk; removing the returned file frees it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            return ballast
    raise AssertionError("the disk has no end")


@pytest.mark.parametrize("blocking", [False, True], ids=["drop", "block"])
def test_a_full_disk(small_disk: Path, blocking: bool, errors: list[str]) -> None:
    """On a full disk ``block`` keeps all records, and ``drop`` counts each dropped one."""
    path = small_disk / "audit.jsonl"
    spec = FileSpec(path=str(path), chain=True, rotate=RotateSpec(size=None))
    counts = SinkCounts()
    outlet = FileOutlet(spec, errors.append)
    one = sink(outlet, counts, blocking=blocking, records=100, log_error=errors.append)
    running = Pipeline(one)
    for number in range(50):
        running.submit(item(number))
    wait_until(lambda: counts.written == 50, "records on the disk")
    ballast = _fill_disk(small_disk)
    for number in range(50, 500):
        running.submit(item(number))
    if blocking:
        wait_until(lambda: running.full, "a full queue")
    else:
        wait_until(lambda: counts.dropped["queue_full"], "drops")
    wait_until(lambda: counts.errors, "a write that fails")
    ballast.unlink()
    wait_until(lambda: counts.backlog == 0, "writing again")
    running.close(within=30)

    lines = lines_of(path)
    reported_drops = reported(lines)
    assert len(numbers(lines)) + reported_drops == 500
    assert len(numbers(lines)) == counts.written
    assert reported_drops == counts.dropped.total()
    assert (reported_drops == 0) == blocking
    assert (verify(path).broken, verify(path).torn) == (None, ())
    assert "No space left on device" in errors[0]
    assert errors[1:] == ["audit sink test works again"]


def test_a_slow_disk_loses_nothing_that_blocks(path: Path) -> None:
    """With occasional write errors every record is written in the end."""
    turn = threading.Semaphore(0)

    def write(fd: int, data: memoryview) -> int:
        turn.acquire()
        return os.write(fd, data[:1000])

    counts = SinkCounts()
    outlet = FileOutlet(FileSpec(path=str(path), chain=True), pytest.fail, write=write)
    running = Pipeline(sink(outlet, counts, blocking=True, records=10))
    for number in range(100):
        running.submit(item(number))
    wait_until(lambda: running.full, "a full queue")
    turn.release(1000)
    running.close(within=30)

    assert numbers(lines_of(path)) == list(range(100))
    assert verify(path).broken is None


_WRITER = """
import os
import sys
import time
from criproxy.audit.counts import SinkCounts
from criproxy.audit.sinks.file import FileOutlet
from tests.audit.sinks.test_file import under_load
from tests.support.audit_lines import Pipeline, item, sink

outlet = FileOutlet(under_load(sys.argv[1], sys.argv[2]), print)
running = Pipeline(sink(outlet, SinkCounts(), blocking=True))
first = int(sys.argv[3])
number = reported = first
while True:
    running.submit(item(number))
    number += 1
    for each in range(reported, first + running.queues["test"].finished):
        os.write(1, b"%d\\n" % each)
        reported = each + 1
    while running.full:
        time.sleep(0.001)
"""


def under_load(path: str, fsync: Any) -> FileSpec:
    """A file that a process writes until it is killed."""
    rotate = RotateSpec(size=Size(100_000), keep=None)
    return FileSpec(path=path, chain=True, fsync=fsync, rotate=rotate)


@pytest.mark.parametrize("fsync", ["always", "none"])
def test_kill_9_under_load_leaves_whole_records(path: Path, fsync: str) -> None:
    """After kill -9 the file has every record reported as done, with at most a torn last line."""
    done = -1
    for killed in range(1, 4):
        command = [sys.executable, "-c", _WRITER, str(path), fsync, str(done + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                for _ in range(300):
                    done = int(process.stdout.readline())
            finally:
                process.kill()
            # What it said last may be cut off.
            done = max(done, *map(int, process.stdout.read().split("\n")[:-1] or ["0"]))
        lines = lines_of(*files_of(path))
        verdict = verify(path)
        assert (verdict.broken, verdict.first) == (None, GENESIS)
        assert len(verdict.torn) <= killed
        is_whole = [line for place, line in enumerate(lines, 1) if place not in verdict.torn]
        written = numbers(is_whole)
        assert written == list(range(len(written)))
        assert done < len(written)
        done = written[-1]

    outlet = FileOutlet(under_load(str(path), fsync), pytest.fail)
    fill(outlet, done + 1, done + 2)
    outlet.close()
    assert verify(path).broken is None
    assert numbers(lines_of(path)[-1:]) == [done + 1]
