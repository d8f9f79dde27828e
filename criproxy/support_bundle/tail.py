"""The ends of logs: of files, and of what a command prints."""

import os
import stat
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from criproxy.common.opening import open_at_once
from criproxy.errors import UnavailableError

_CHUNK: Final = 65536
COMMAND_SECONDS: Final = 30.0
"""Time limit of a command that prints a log."""


def file_tail(path: Path, limit: int) -> bytes:
    """Return the last ``limit`` bytes of a regular file, from the start of a line.

    Raises UnavailableError when it cannot be read or is no regular file.
    """
    try:
        with open_at_once(path) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UnavailableError(f"{path}: not a regular file")
            file.seek(max(0, status.st_size - limit))
            return _whole_lines(file.read(limit), status.st_size > limit)
    except OSError as error:
        raise UnavailableError(f"{path}: {error.strerror}") from error


def command_tail(command: Sequence[str], limit: int) -> bytes:
    """Return the last ``limit`` bytes that a command prints, from the start of a line.

    Raises UnavailableError when it cannot be started, fails or takes longer than COMMAND_SECONDS.
    """
    name = command[0]
    try:
        process = subprocess.Popen(  # noqa: S603  # a command of ours, without a shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError as error:
        raise UnavailableError(f"{name}: {error.strerror}") from error
    timer = threading.Timer(COMMAND_SECONDS, process.kill)
    timer.start()
    kept, cut = bytearray(), False
    with process:
        assert process.stdout is not None  # a pipe was asked for
        while chunk := process.stdout.read(_CHUNK):
            kept += chunk
            if len(kept) > limit:
                del kept[:-limit]
                cut = True
    timer.cancel()
    if process.returncode:
        raise UnavailableError(f"{name} ended with status {process.returncode}")
    return _whole_lines(bytes(kept), cut)


def _whole_lines(data: bytes, cut: bool) -> bytes:
    return data.partition(b"\n")[2] if cut else data
