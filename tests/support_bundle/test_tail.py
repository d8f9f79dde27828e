"""The ends of logs."""

import os
import sys
from pathlib import Path

import pytest

from criproxy.errors import UnavailableError
from criproxy.support_bundle import tail
from criproxy.support_bundle.tail import command_tail, file_tail


@pytest.mark.parametrize(("limit", "expected"), [(100, b"one\ntwo\nthree\n"), (8, b"three\n")])
def test_whole_lines_within_the_limit(limit: int, expected: bytes, tmp_path: Path) -> None:
    """At most as many bytes as allowed are taken from the end, from the start of a line."""
    log = tmp_path / "log"
    log.write_bytes(b"one\ntwo\nthree\n")
    assert file_tail(log, limit) == expected
    assert command_tail(["cat", str(log)], limit) == expected


def test_no_regular_file(tmp_path: Path) -> None:
    """A FIFO is not waited for, and a file that is not there is named."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UnavailableError, match="fifo: not a regular file"):
        file_tail(tmp_path / "fifo", 10)
    with pytest.raises(UnavailableError, match="gone: No such file"):
        file_tail(tmp_path / "gone", 10)


def test_commands_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that is missing, fails or goes on for too long is an error that names it."""
    with pytest.raises(UnavailableError, match="no-such-command: No such file"):
        command_tail(["no-such-command"], 10)
    with pytest.raises(UnavailableError, match="false ended with status 1"):
        command_tail(["false"], 10)
    monkeypatch.setattr(tail, "COMMAND_SECONDS", 0.1)
    with pytest.raises(UnavailableError, match="ended with status -9"):
        command_tail([sys.executable, "-c", "import time; time.sleep(600)"], 10)
