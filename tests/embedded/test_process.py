"""The embedded runtime as a child process."""

from pathlib import Path

import pytest

from criproxy.client import CriClient
from criproxy.embedded.process import RuntimeProcess
from criproxy.errors import UnavailableError
from tests.support.waiting import LIMIT_SECONDS


def test_process_serves_until_the_block_ends(short_dir: Path) -> None:
    """It listens once the block is entered, and is gone with its socket after it."""
    path = short_dir / "cri.sock"
    with RuntimeProcess(f"unix://{path}", latency="none", pods=2) as runtime:
        assert runtime.pid
        with CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as client:
            assert len(client.ListPodSandbox().items) == 2
    assert runtime.pid is None
    assert not path.exists()


def test_failure_says_what_the_process_said(short_dir: Path) -> None:
    """A process that cannot start is an error with its own words."""
    endpoint = f"unix://{short_dir}/none/cri.sock"
    with pytest.raises(UnavailableError, match=f"{endpoint}: its directory does not exist"):
        RuntimeProcess(endpoint).start()
