"""Skips tests whose requirements the machine lacks, or fails them where none may be skipped."""

import os
import shutil
from collections.abc import Sequence

import pytest


def require(lacking: Sequence[str]) -> None:
    """Skip the test, with what the machine lacks for the reason, unless it lacks nothing.

    With ``CRIPROXY_E2E=required`` in the environment the test fails instead.
    """
    if not lacking:
        return
    reason = "this end-to-end test needs " + ", ".join(lacking)
    if os.environ.get("CRIPROXY_E2E") == "required":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def require_systemd() -> None:
    """Skip the test, or fail it, where systemd-analyze is missing; no systemd has to run."""
    require([] if shutil.which("systemd-analyze") else ["systemd-analyze (systemd)"])
