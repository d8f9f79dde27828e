"""Creates the files that commands write for a user."""

import os
from pathlib import Path
from typing import Final

from criproxy.errors import UsageError

_MODE: Final = 0o600
"""Calls, and what tells about a node, are not everybody's to read, even without secrets."""


def create(path: Path, exists: str, *, replace: bool = False) -> int:
    """Create a file that only its owner may read; return its descriptor.

    Raises UsageError if there is one, unless it is to ``replace``, with the text ``exists``; and
    OSError if it cannot be created.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if replace else os.O_EXCL)
    try:
        return os.open(path, flags, _MODE)
    except FileExistsError:
        raise UsageError(f"{path}: {exists}") from None
