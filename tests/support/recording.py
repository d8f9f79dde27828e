"""Runs ``criproxy record``, and reads what it has written."""

import sys
from pathlib import Path
from typing import Self

from criproxy.cassette.reader import CassetteReader
from criproxy.cassette.records import AnyRecord
from tests.support.process import Process
from tests.support.waiting import wait_until


class Recording:
    """``criproxy record`` in a directory, a context manager: it records from entering on."""

    def __init__(self, directory: Path, runtime: str, *options: str) -> None:
        self.endpoint = f"unix://{directory}/record.sock"
        self.file = directory / "calls.cassette"
        command = [sys.executable, "-m", "criproxy", "record", str(self.file)]
        command += ["--listen", self.endpoint, "--runtime-endpoint", runtime, *options]
        self.process = Process(command, output=directory / "record.log")

    def stop(self) -> int:
        """End the recording; return the exit status."""
        return self.process.stop()

    def records(self) -> list[AnyRecord]:
        """The records of the cassette so far."""
        with CassetteReader(self.file) as reader:
            return list(reader)

    def __enter__(self) -> Self:
        self.process.start()
        wait_until(lambda: "recording" in self.process.stdout, "a recording")
        wait_until(lambda: self.file.stat().st_size, "the first record of a recording")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
