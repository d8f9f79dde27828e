from collections.abc import Iterator
from pathlib import Path

import pytest

from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from tests.support.waiting import LIMIT_SECONDS


@pytest.fixture
def runtime(short_dir: Path) -> Iterator[EmbeddedRuntime]:
    """An embedded runtime without latency."""
    with EmbeddedRuntime(f"unix://{short_dir}/cri.sock") as runtime:
        yield runtime


@pytest.fixture
def client(runtime: EmbeddedRuntime) -> Iterator[CriClient]:
    """A v1 client of it."""
    with CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as client:
        yield client
