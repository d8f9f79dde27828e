"""The reading of processes from /proc."""

import os
import subprocess
import sys

from bench.processes import rss_bytes

NAMELESS = r"""
import ctypes, sys
ctypes.CDLL(None).prctl(15, b"\xff) \xfe", 0, 0, 0)  # PR_SET_NAME
print(flush=True)
sys.stdin.read()
"""


def test_a_process_may_have_any_name() -> None:
    """A child counts whatever its name is, and one whose name is no text stops no measurement."""
    child = subprocess.Popen(
        [sys.executable, "-c", NAMELESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        mine, both = rss_bytes(child.pid), rss_bytes(os.getpid())
        child.communicate(b"")
    assert 0 < mine < both
