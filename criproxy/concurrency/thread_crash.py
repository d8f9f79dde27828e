"""Ends a process one of whose threads has crashed: its parent starts another."""

import os
import threading
from typing import Final

_FATAL: Final = 70
"""Exit status after an error in a thread (sysexits.h, EX_SOFTWARE)."""


def end_process_on_thread_crash() -> None:
    """Have an exception that a thread does not handle end the process, with its traceback."""
    threading.excepthook = _end_process


def _end_process(failure: threading.ExceptHookArgs) -> None:
    threading.__excepthook__(failure)
    os._exit(_FATAL)
