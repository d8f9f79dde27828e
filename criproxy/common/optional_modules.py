"""Keeps libraries from loading modules that they can do without."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import cast


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Make imports of top-level modules raise ImportError within the block, as if not installed.

    A module that is loaded already stays importable: hiding it would save nothing.
    """
    missing = [name for name in names if name not in sys.modules]
    for name in missing:
        sys.modules[name] = cast(ModuleType, None)  # the import system's mark of a module to refuse
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]
