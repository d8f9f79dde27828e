"""The archive."""

import json
import os
import tarfile
from pathlib import Path

import pytest

from criproxy.errors import UnavailableError, UsageError
from criproxy.support_bundle import bundle
from criproxy.support_bundle.bundle import Part, write


def _fail() -> bytes:
    raise UnavailableError("http://a:b@host/: refused")


def _crash() -> bytes:
    raise ValueError("odd")


def test_parts_and_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is cut at the limit; one that fails costs no other, and the manifest says which."""
    monkeypatch.setattr(bundle, "PART_LIMIT", 4)
    file = tmp_path / "a.tar.gz"
    parts = [Part("a", lambda: b"12345"), Part("b", _fail), Part("c", _crash), Part("d", bytes)]
    written = write(file, parts)
    assert written.sizes == {"a": 4, "d": 0}
    assert written.missing == {
        "b": "http://[redacted: 3 bytes]@host/: refused",
        "c": "ValueError: odd",
    }
    with tarfile.open(file) as archive:
        contents = {
            name.removeprefix("criproxy-support/"): archive.extractfile(name).read()  # type: ignore[union-attr]
            for name in archive.getnames()
        }
    manifest = json.loads(contents.pop("manifest.json"))
    assert contents == {"a": b"1234", "d": b""}
    assert manifest["parts"] == [
        {"name": "a", "bytes": 4, "cut": True},
        {"name": "b", "missing": written.missing["b"]},
        {"name": "c", "missing": written.missing["c"]},
        {"name": "d", "bytes": 0, "cut": False},
    ]
    assert file.stat().st_mode & 0o777 == 0o600


def test_existing_file(tmp_path: Path) -> None:
    """A file that exists stays as it is."""
    file = tmp_path / "a"
    file.write_text("mine")
    with pytest.raises(UsageError, match="exists already; name another file with -o"):
        write(file, [])
    assert file.read_text() == "mine"
    with pytest.raises(UsageError, match="no such directory"):
        write(tmp_path / "b/c", [])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk there is one line, and no half archive."""
    real = os.open
    monkeypatch.setattr(
        os,
        "open",
        lambda path, *rest: real("/dev/full", os.O_WRONLY) if path == file else real(path, *rest),
    )
    file = tmp_path / "a"
    file.touch()  # /dev/full is opened in its place
    with pytest.raises(UnavailableError, match="a: No space left on device"):
        write(file, [Part("x", lambda: os.urandom(1 << 20))])
    assert not file.exists()
