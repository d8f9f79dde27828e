"""The file format of cassettes."""

import gzip
import os
import tracemalloc
from pathlib import Path
from struct import pack
from zlib import compressobj

import pytest

from criproxy.cassette import blocks
from criproxy.cassette.blocks import BLOCK_SIZE, HEADER_SIZE, LARGEST_RECORD, MAGIC
from criproxy.cassette.call_index import CallIndex
from criproxy.cassette.reader import CassetteReader
from criproxy.cassette.records import (
    AnyRecord,
    Began,
    CallBegan,
    CallEnded,
    CassetteError,
    ConnectionClosed,
    ConnectionOpened,
    Dropped,
    Ended,
    MessagePassed,
    encode,
)
from criproxy.cassette.writer import CassetteWriter
from criproxy.errors import UnavailableError, UsageError

BEGAN = Began(version=1, began=1_700_000_000_000_000_000, node="node7")
VERSION = "/runtime.v1.RuntimeService/Version"


def call(number: int, data: bytes = b"answer") -> list[AnyRecord]:
    at = number * 1000
    return [
        CallBegan(call=number, connection=1, at=at, path=VERSION, stream=2 * number - 1),
        MessagePassed(call=number, at=at + 1, size=0),
        MessagePassed(call=number, at=at + 2, size=len(data), response=True, data=data),
        CallEnded(
            call=number,
            at=at + 3,
            end="status",
            code="OK",
            request_messages=1,
            response_messages=1,
            response_bytes=len(data),
        ),
    ]


RECORDS: list[AnyRecord] = [
    BEGAN,
    ConnectionOpened(connection=1, at=1, pid=7, executable="/usr/bin/kubelet", kubelet=True),
    *call(1),
    Dropped(at=5, since=4, records=2, bytes=100),
    *call(2),
    ConnectionClosed(connection=1, at=9000),
    Ended(at=9001, calls=2, dropped=2, reason="stopped"),
]


def written(path: Path, records: list[AnyRecord], block: int = 3) -> Path:
    """A cassette with a block for every few records."""
    writer = CassetteWriter(path)
    for number, record in enumerate(records, 1):
        assert writer.write(record)
        if not number % block:
            writer.flush()
    writer.close()
    assert writer.size == path.stat().st_size
    return path


def read(path: Path) -> tuple[list[AnyRecord], CassetteReader]:
    with CassetteReader(path) as reader:
        return list(reader), reader


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Records come back in order, however they are spread over blocks; nothing is skipped."""
    for block in (1, 3, 100):
        found, reader = read(written(tmp_path / f"{block}", RECORDS, block))
        assert found == RECORDS
        assert reader.began == BEGAN
        assert not reader.damage.describe(reader.path)


def test_it_is_a_gzip_file(tmp_path: Path) -> None:
    """gzip decompresses a cassette to the framed records."""
    path = written(tmp_path / "a", RECORDS)
    framed = b"".join(blocks.frame(encode(record)) for record in RECORDS)
    assert gzip.decompress(path.read_bytes()) == framed


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    """A cassette has the mode 0600, and an existing file is overwritten only on request."""
    path = written(tmp_path / "a", RECORDS)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match=r"a: exists; .*--force"):
        CassetteWriter(path)
    CassetteWriter(path, replace=True).close()
    assert path.read_bytes() == b""
    with pytest.raises(UnavailableError, match="cannot be created: No such file"):
        CassetteWriter(tmp_path / "no" / "a")


def test_a_torn_end(tmp_path: Path) -> None:
    """Wherever a cassette is cut off, the whole blocks before are read, and the rest counted."""
    path = written(tmp_path / "a", RECORDS)
    data = path.read_bytes()
    ends = [at for at in range(1, len(data)) if data.startswith(MAGIC, at)] + [len(data)]
    for size in range(ends[0], len(data)):
        torn = tmp_path / "torn"
        torn.write_bytes(data[:size])
        found, reader = read(torn)
        whole = [end for end in ends if end <= size]
        assert found == RECORDS[: 3 * len(whole)]
        assert reader.damage.bytes == size - whole[-1]
        if size > whole[-1]:
            assert reader.damage.describe(torn) == [
                f"{torn}: byte {whole[-1]}: damaged or cut off there; "
                f"{size - whole[-1]} bytes skipped"
            ]
    torn.write_bytes(data[: ends[0] - 1])
    with pytest.raises(CassetteError, match="byte 0: the first block is cut off"):
        CassetteReader(torn)


def test_a_damaged_byte(tmp_path: Path) -> None:
    """A damaged byte costs its block alone, wherever it is, also where the block's length is."""
    data = written(tmp_path / "a", RECORDS).read_bytes()
    ends = [at for at in range(1, len(data)) if data.startswith(MAGIC, at)] + [len(data)]
    path = tmp_path / "damaged"
    for position in range(ends[0], len(data)):
        block = next(number for number, end in enumerate(ends) if position < end)
        if position - ends[block - 1] == len(MAGIC):
            continue  # a version: see below
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :])
        found, reader = read(path)
        assert found == RECORDS[: 3 * block] + RECORDS[3 * block + 3 :], position
        assert (reader.damage.first, reader.damage.bytes) == (
            ends[block - 1],
            ends[block] - ends[block - 1],
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "byte 0: is empty, and no cassette"),
        (b"{}\n" * 100, "byte 0: is no cassette; name a file that criproxy record has written"),
        (gzip.compress(b"something else"), "byte 0: is no cassette"),
        (
            blocks.build(blocks.frame(encode(BEGAN)), version=2),
            "byte 0: is a cassette of version 2, and this criproxy reads version 1; use a newer",
        ),
        (
            blocks.build(blocks.frame(encode(RECORDS[-1]))),
            "byte 0: the first record does not begin a cassette",
        ),
    ],
    ids=["empty", "lines", "gzip", "newer", "headless"],
)
def test_a_file_that_is_no_cassette(tmp_path: Path, content: bytes, message: str) -> None:
    """What cannot be read as a cassette is one line that names the file and the byte."""
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(CassetteError) as failure:
        CassetteReader(path)
    assert str(failure.value).startswith(f"{path}: {message}")
    assert failure.value.exit_code == 2
    assert "\n" not in str(failure.value)


def test_a_missing_file(tmp_path: Path) -> None:
    """A missing file is the user's mistake, a directory cannot be read."""
    with pytest.raises(UsageError, match="no such file"):
        CassetteReader(tmp_path / "none")
    with pytest.raises(UnavailableError, match="cannot be read: Is a directory"):
        CassetteReader(tmp_path)


def test_kinds_of_the_future(tmp_path: Path) -> None:
    """Records of unknown kinds are skipped and counted, unknown fields are ignored."""
    path = tmp_path / "a"
    unknown = [{"kind": "mood", "at": 3}, {"kind": "ended", "at": 9, "calls": 0, "mood": "good"}]
    content = [encode(BEGAN), *map(encode, unknown), b"\xc1"]
    path.write_bytes(blocks.build(b"".join(map(blocks.frame, content))))
    found, reader = read(path)
    assert found == [BEGAN, Ended(at=9, calls=0)]
    assert reader.damage.describe(path) == [f"{path}: 2 records of an unknown kind skipped"]


def test_memory(tmp_path: Path) -> None:
    """Reading a large cassette takes the memory of a few blocks; so does a block that explodes."""
    path = tmp_path / "a"
    noise = os.urandom(BLOCK_SIZE)
    records = [BEGAN, *(each for number in range(1, 100) for each in call(number, noise))]
    written(path, records, block=1000)
    assert path.stat().st_size > 90 * BLOCK_SIZE
    deflater = compressobj(9, 8, -15)
    zeros = b"\0" * (1 << 20)
    body = b"".join(deflater.compress(zeros) for _ in range(200)) + deflater.flush()
    size = HEADER_SIZE + len(body) + 8
    with path.open("ab") as file:
        file.write(MAGIC + pack("<BI", 1, size) + body + bytes(8))
    tracemalloc.start()
    try:
        with CassetteReader(path) as reader:
            assert sum(isinstance(each, CallEnded) for each in reader) == 99
            peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reader.damage.blocks == 1
    assert peak < 2.5 * LARGEST_RECORD


def test_many_beginnings_of_blocks(tmp_path: Path) -> None:
    """A file full of headers without blocks is not read as a whole from each of them."""
    read_bytes = 0

    class Counting(CassetteReader):
        def _read(self, position: int, size: int) -> bytes:
            nonlocal read_bytes
            data = super()._read(position, size)
            read_bytes += len(data)
            return data

    count = 10_000
    for size in (HEADER_SIZE, 1 << 25):
        path = written(tmp_path / str(size), [BEGAN])
        read_bytes = 0
        header = MAGIC + pack("<BI", 1, size)
        path.write_bytes(path.read_bytes() + header * count)
        with Counting(path) as reader:
            assert list(reader) == [BEGAN]
        assert reader.damage.bytes == len(header) * count
        assert read_bytes < 5000 * count


def test_records_that_are_too_large(tmp_path: Path) -> None:
    """A record of more than 32 MiB is refused: a reader would not take it."""
    writer = CassetteWriter(tmp_path / "a")
    data = bytes(LARGEST_RECORD)
    assert not writer.write(MessagePassed(call=1, at=1, size=1, data=data))
    assert writer.write(BEGAN)
    writer.close()
    assert read(tmp_path / "a")[0] == [BEGAN]


def test_the_index_of_calls(tmp_path: Path) -> None:
    """The index has each call with its messages, and says which are not complete and why."""
    answers = [os.urandom(10) for _ in range(6)]
    records = [BEGAN, *(each for number in range(6) for each in call(number + 1, answers[number]))]
    del records[2 + 4 * 2]  # the request of the third call
    del records[-1]  # the end of the last one
    path = written(tmp_path / "a", [*records, Dropped(at=1, since=1, records=1)], 2)
    with CassetteReader(path) as reader:
        index = CallIndex(reader)
        assert [each.complete for each in index.calls] == [True, True, False, True, True, False]
        for each in reversed(index.calls):
            assert index.messages(each.responses) == [answers[each.number - 1]]
        assert index.notes() == [f"{path}: 1 records were lost when it was recorded"]
        small = CallIndex(reader, max_calls=3)
        assert [each.number for each in small.calls] == [1, 2, 3]
        assert small.notes()[1] == f"{path}: 3 calls and messages beyond the first are left out"
        few = CallIndex(reader, max_messages=2)
        assert [each.complete for each in few.calls[:2]] == [True, False]


def test_a_cassette_that_was_cut_off_between_blocks(tmp_path: Path) -> None:
    """A cassette without its last record says so; a whole one has no notes."""
    with CassetteReader(written(tmp_path / "a", RECORDS[:-1])) as reader:
        assert CallIndex(reader).notes()[-1] == (
            f"{tmp_path / 'a'}: 2 records were lost when it was recorded"
        )
    with CassetteReader(written(tmp_path / "b", [BEGAN, *call(1)])) as reader:
        (note,) = CallIndex(reader).notes()
        assert note == f"{tmp_path / 'b'}: has no last record; its recording was cut off"
