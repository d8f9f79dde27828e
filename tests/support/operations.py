"""Counts the operations of code instead of its time, which depends on the machine."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, SupportsIndex

import criproxy

_PACKAGE = str(Path(criproxy.__file__).parent)
_BYTES_PER_OPERATION = 16


class CountedBytes(bytes):
    """Bytes of which slices and concatenations count as work; so do those of the results."""

    copied = 0

    def __getitem__(self, key: SupportsIndex | slice) -> Any:
        part = super().__getitem__(key)
        return part if isinstance(part, int) else _counted(part)

    def __add__(self, other: Any) -> "CountedBytes":
        return _counted(super().__add__(other))


def _counted(data: bytes) -> CountedBytes:
    CountedBytes.copied += len(data)
    return CountedBytes(data)


def operations(run: Callable[[], object]) -> int:
    """Return the bytecode operations of criproxy's code in a run.

    Each sixteen bytes that are copied of CountedBytes count as one more.
    """
    count = 0

    def trace_operations(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if event == "opcode":
            count += 1
        return trace_operations

    def trace_calls(frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return trace_operations

    before, CountedBytes.copied = sys.gettrace(), 0
    sys.settrace(trace_calls)
    try:
        run()
    finally:
        sys.settrace(before)
    return count + CountedBytes.copied // _BYTES_PER_OPERATION
