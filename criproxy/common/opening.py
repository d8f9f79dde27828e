"""Opens files of others for reading, without waiting for whoever may write to them."""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path


def open_at_once(path: Path) -> BufferedReader:
    """Open a file for reading, in bytes. Raises OSError, also for a FIFO.

    A FIFO without a writer would be waited for, and one with a writer has no end.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115  # returned
    if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file
