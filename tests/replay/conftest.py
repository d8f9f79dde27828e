"""A recorded life of a pod, which all tests of replaying share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from criproxy.embedded.background import EmbeddedRuntime
from tests.support.recording import Recording
from tests.support.replaying import Life, events_of
from tests.support.waiting import wait_until


class Recorded(NamedTuple):
    """A cassette, and what the recorded client was answered."""

    file: Path
    life: list[tuple[str, str, Any]]
    events: Sequence[tuple[str, int]]
    sandbox: str
    container: str


@pytest.fixture(scope="session")
def recorded(session_dir: Path, worker_id: str) -> Recorded:
    directory = session_dir / f"recorded-{worker_id}"
    directory.mkdir()
    with (
        EmbeddedRuntime(f"unix://{directory}/cri.sock", pods=2) as runtime,
        Recording(directory, runtime.endpoint) as recording,
    ):
        with Life(recording.endpoint) as life, events_of(life.client) as events:
            life.live()
            wait_until(lambda: len(events) >= 4, "the events")
            life.call("ListImages")
            life.call("ExecSync", container_id="none", cmd=["true"])
        assert recording.stop() == 0
    return Recorded(recording.file, life.answers, events, life.sandbox, life.container)
