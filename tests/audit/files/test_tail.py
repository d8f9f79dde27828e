"""The end of a log, from which its chain of hashes continues."""

import gzip
from pathlib import Path

import pytest

from criproxy.audit.files import tail
from criproxy.audit.files.hash_chain import START, link
from criproxy.audit.files.rotation import RotatedFile, rotated_files


def test_file_that_is_compressed_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rotated file that is replaced by its compressed form, behind the listing, is still read."""
    log = tmp_path / "audit.jsonl"
    line, expected = link(b'{"a":1}', START)
    rotated = tmp_path / "audit.jsonl.00000001-20261123T101500Z"
    rotated.with_name(rotated.name + ".gz").write_bytes(gzip.compress(line + b"\n"))
    listings = [[RotatedFile(1, rotated, compressed=False)]]

    def listed(path: Path) -> list[RotatedFile]:
        return listings.pop() if listings else rotated_files(path)

    monkeypatch.setattr(tail, "rotated_files", listed)
    assert tail.last_link(log) == expected
    assert not listings


def test_directory_that_is_gone(tmp_path: Path) -> None:
    """Where nothing can be listed, that is the error."""
    with pytest.raises(FileNotFoundError):
        tail.last_link(tmp_path / "gone" / "audit.jsonl")
