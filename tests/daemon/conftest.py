"""An embedded runtime, and criproxy in front of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from criproxy.embedded.background import EmbeddedRuntime
from tests.support.criproxy import Criproxy


@pytest.fixture
def runtime(short_dir: Path) -> Iterator[EmbeddedRuntime]:
    """A runtime that answers at once and has two pods."""
    with EmbeddedRuntime(f"unix://{short_dir}/cri.sock", pods=2) as runtime:
        yield runtime


@pytest.fixture
def proxy(runtime: EmbeddedRuntime, short_dir: Path) -> Iterator[Criproxy]:
    """A proxy in front of it."""
    with Criproxy(short_dir, runtime.endpoint) as proxy:
        yield proxy
