"""What the capturer keeps and writes: of a recorded kubelet, and of calls that a test makes up."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from criproxy.capture.capturer.directory import CassetteDirectory
from criproxy.capture.capturer.numbering import Numbers, WorkerNumbering
from criproxy.capture.capturer.recording import RingRecording
from criproxy.capture.counts import CaptureCounts
from criproxy.capture.spec import CaptureSpec, CaptureTriggerSpec
from criproxy.cassette import writer
from criproxy.cassette.call_index import CallIndex
from criproxy.cassette.reader import CassetteReader
from criproxy.cassette.records import AnyRecord, Began, ConnectionOpened, Ended
from criproxy.configtypes.values import Duration, Size
from criproxy.cri.pb import runtime_v1_pb2 as v1
from tests.support.cassettes import SECOND, Made, records_of_capture

START = 1_700_000_000 * SECOND

FAILED = CaptureTriggerSpec(codes=["UNKNOWN"])


class Capturer:
    """A recording with its counters and its errors."""

    def __init__(self, directory: Path, *triggers: CaptureTriggerSpec, **spec: Any) -> None:
        self.counts = CaptureCounts()
        self.errors: list[str] = []
        self.directory = directory
        made = CaptureSpec(directory=str(directory), triggers=list(triggers), **spec)
        self.recording = RingRecording(made, self.counts, lambda: START, self.errors.append)

    def add(self, records: Iterable[AnyRecord]) -> None:
        for record in records:
            self.recording.add(record, getattr(record, "at", 0))

    def fail(self, number: int, at: float) -> None:
        """Have a call fail, which takes a tenth of a second."""
        call = Made("StopContainer", at - 0.1, at, v1.StopContainerRequest(), code="UNKNOWN")
        self.add(call.make(number))

    def cassettes(self) -> list[Path]:
        return sorted(self.directory.glob("capture-*.cassette"))


def at_of(record: AnyRecord) -> int:
    return getattr(record, "at", 0)


def test_the_calls_of_a_kubelet(tmp_path: Path) -> None:
    """The connections of two workers become one cassette with whole calls, what led to the call
    and what followed it; streams that are in flight are there with their beginning."""
    slow = CaptureTriggerSpec(slower_than=Duration(1.5), methods=["StopContainer"])
    capturer = Capturer(tmp_path / "new" / "captures", slow, after=Duration(1))
    numbers = Numbers()
    records: list[AnyRecord] = []
    for name in ("kubelet-01", "kubelet-02"):
        numbering = WorkerNumbering(numbers, 0)
        converted = map(numbering.convert, records_of_capture(name))
        records += [record for record in converted if record is not None]
    ticked = 0
    for record in sorted(records, key=at_of):
        now = at_of(record)
        if now - ticked > SECOND // 2:
            ticked = now
            capturer.recording.tick(now)
        capturer.add([record])
    (path,) = capturer.cassettes()
    with CassetteReader(path) as reader:
        began = reader.began
        index = CallIndex(reader)
        found = list(reader)
    what = "StopContainer of default/static-web-labnode: in flight after 1."
    assert began.trigger.startswith(what)
    assert began.began == START
    opened = [each.connection for each in found if isinstance(each, ConnectionOpened)]
    assert opened == [1, 2]
    assert len({call.number for call in index.calls}) == len(index.calls)
    ended = [call for call in index.calls if call.end is not None]
    assert all(call.complete for call in ended)
    assert [each.path.rpartition("/")[2] for each in index.calls if each.end is None] == [
        "GetContainerEvents"
    ]
    slowest = max(ended, key=lambda call: call.seconds)
    assert slowest.path.endswith("/StopContainer")
    assert slowest.ended < index.ended <= slowest.ended + 2 * SECOND
    assert isinstance(found[-1], Ended)
    assert (found[-1].reason, capturer.errors) == ("trigger", [])


def test_cassettes_are_bounded(tmp_path: Path) -> None:
    """There are never more files than configured, and never larger ones together; other files are
    left alone. Triggers soon after each other are counted, and have one."""
    other = tmp_path / "capture-of-mine.cassette"
    other.touch()
    capturer = Capturer(tmp_path, FAILED, files=2, after=Duration(1), interval=Duration(10))
    for number in range(1, 6):
        capturer.fail(number, 20.0 * number)
        capturer.recording.tick(int((20.0 * number + 2) * SECOND))
        capturer.fail(100 + number, 20.0 * number + 3)
    names = [each.name for each in capturer.cassettes()]
    assert names == [
        "capture-20231114T221440.000000Z.cassette",
        "capture-20231114T221500.000000Z.cassette",
        other.name,
    ]
    counts = capturer.counts
    assert (counts.cassettes["trigger"], counts.suppressed, counts.removed) == (5, 5, 3)
    capturer.recording.close()
    smaller = Capturer(
        tmp_path, FAILED, ring=Size(1 << 20), file_size=Size(2 << 20), total_size=Size(2 << 20)
    )
    smaller.fail(1, 300.0)
    smaller.recording.close()
    assert [each.name for each in smaller.cassettes()] == [
        "capture-20231114T221820.000000Z.cassette",
        other.name,
    ]


def test_a_long_name(tmp_path: Path) -> None:
    """A cassette says of which call it is, with no more of a name than names have."""
    capturer = Capturer(tmp_path, FAILED)
    metadata = v1.PodSandboxMetadata(name="web" * 1_000_000, namespace="shop")
    request = v1.RunPodSandboxRequest(config=v1.PodSandboxConfig(metadata=metadata))
    capturer.add(Made("RunPodSandbox", 1, 2, request, code="UNKNOWN").make(1))
    (path,) = capturer.cassettes()
    with CassetteReader(path) as reader:
        trigger = reader.began.trigger
    assert trigger.startswith("RunPodSandbox of shop/webweb")
    assert trigger.endswith("web: UNKNOWN after 1.000 s")
    assert len(trigger) < 400
    capturer.recording.close()


def test_others_use_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only has the name of a cassette is left alone, and prevents none; neither does another
    daemon that removes cassettes at the same time."""
    mine = tmp_path / "mine"
    mine.write_bytes(bytes(100))
    link, broken, directory, first, second = (
        tmp_path / f"capture-20231114T22141{number}.000000Z.cassette" for number in range(5)
    )
    link.symlink_to(mine)
    broken.symlink_to(tmp_path / "missing")
    directory.mkdir()
    first.touch()
    second.touch()
    listed = Path.iterdir
    cassettes = CassetteDirectory(tmp_path, 2, 1000)

    def others_remove(path: Path) -> Iterable[Path]:
        yield from list(listed(path))
        first.unlink()

    monkeypatch.setattr(Path, "iterdir", others_remove)
    assert cassettes.make_room(1_700_000_100, 10).name == "capture-20231114T221500.000000Z.cassette"
    assert second.exists()

    monkeypatch.setattr(Path, "iterdir", listed)
    unlink = Path.unlink

    def others_are_first(path: Path) -> None:
        unlink(path)
        unlink(path)

    monkeypatch.setattr(Path, "unlink", others_are_first)
    cassettes.make_room(1_700_000_100, 1001)
    assert sorted(tmp_path.iterdir()) == [link, broken, directory, mine]
    assert cassettes.removed == 0


def test_a_cassette_ends_at_its_size(tmp_path: Path) -> None:
    """What follows the call is written up to the largest size of a file."""
    limit = 2 << 20
    capturer = Capturer(tmp_path, FAILED, ring=Size(1 << 20), file_size=Size(limit))
    capturer.fail(1, 1.0)
    for number in range(2, 80):
        padding = os.urandom(50_000).hex()
        request = v1.StopContainerRequest(container_id=padding)
        capturer.add(Made("StopContainer", 2, 3, request).make(number))
    (path,) = capturer.cassettes()
    assert limit // 2 < path.stat().st_size <= limit
    with CassetteReader(path) as reader:
        *_, last = reader
    assert isinstance(last, Ended)
    assert last.reason == "size"
    assert capturer.recording._ring.size <= 1 << 20


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cassette that cannot be written is removed, counted and told; what is kept stays, so that
    the next has it."""
    capturer = Capturer(tmp_path, FAILED, interval=Duration(1))

    def create(path: Path, exists: str, *, replace: bool = False) -> int:
        path.touch()
        return os.open("/dev/full", os.O_WRONLY)

    with monkeypatch.context() as patched:
        patched.setattr(writer, "create", create)
        capturer.fail(1, 1.0)
    (error,) = capturer.errors
    assert error.startswith("no cassette is written: ")
    assert error.endswith("cannot be written: No space left on device")
    assert (capturer.counts.errors, capturer.cassettes()) == (1, [])
    capturer.fail(2, 3.0)
    capturer.recording.close()
    (path,) = capturer.cassettes()
    with CassetteReader(path) as reader:
        began, *found = reader
        assert [call.number for call in CallIndex(reader).calls] == [1, 2]
    assert isinstance(began, Began)
    assert began.trigger == "StopContainer: UNKNOWN after 0.100 s"
    assert isinstance(found[-1], Ended)
    assert (found[-1].reason, capturer.counts.errors) == ("stopped", 1)


def test_a_worker_that_is_gone() -> None:
    """What a worker had open ends with it, so that nothing of it is kept for ever."""
    numbering = WorkerNumbering(Numbers(), 5 * SECOND)
    call = Made("Version", 6, None, v1.VersionRequest())
    opened = ConnectionOpened(connection=1, at=4 * SECOND)
    given = [opened, *call.make(7)]
    began = [record for each in given if (record := numbering.convert(each)) is not None]
    assert [(type(each).__name__, at_of(each)) for each in began] == [
        ("ConnectionOpened", 0),
        ("CallBegan", SECOND),
        ("MessagePassed", SECOND),
    ]
    ends = [(type(each).__name__, at_of(each)) for each in numbering.ended(9 * SECOND)]
    assert ends == [("CallEnded", 4 * SECOND), ("ConnectionClosed", 4 * SECOND)]
    assert list(numbering.ended(10 * SECOND)) == []


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"ring": Size(1000)}, "ring has to be at least 1MiB"),
        ({"file_size": Size(33 << 20)}, "file_size has to be at least twice the ring"),
        ({"total_size": Size(65 << 20)}, "total_size has to be at least file_size"),
        ({"files": 0}, "files has to be at least 1"),
    ],
)
def test_wrong_sizes(keys: dict[str, Any], message: str) -> None:
    """Sizes that leave no room for a cassette are refused."""
    with pytest.raises(ValueError, match=message):
        CaptureSpec(directory="/captures", **keys)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "a trigger needs a condition"),
        ({"codes": ["OOPS"]}, "'OOPS' is no gRPC code"),
        ({"methods": ["@slow"]}, "'@slow' is no group of methods"),
    ],
)
def test_wrong_triggers(keys: dict[str, Any], message: str) -> None:
    """A trigger without a condition, or with one that no call can meet, is refused."""
    with pytest.raises(ValueError, match=message):
        CaptureTriggerSpec(**keys)
