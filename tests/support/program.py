"""Runs Python from a chosen path, for tests of a client's executable."""

import os
import shutil
import sys
from pathlib import Path

from tests.support.process import Process


def program(path: Path, code: str, *arguments: str) -> Process:
    """Return a process that runs ``code`` with this Python's modules, its executable ``path``.

    The executable is a copy, because the kernel reports a link's target.
    """
    if not path.exists():
        shutil.copy(Path(sys.executable).resolve(), path)
    env = {
        "PYTHONHOME": sys.base_prefix,
        "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path),
    }
    return Process([str(path), "-c", code, *arguments], output=path.with_suffix(".log"), env=env)
