"""The whole life of a pod on a real containerd, recorded, and replayed without it."""

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.pod_life import Pod, live
from tests.e2e.recorder import Recorder
from tests.support.containerd import Containerd
from tests.support.recording import Recording
from tests.support.replaying import Replay

pytestmark = pytest.mark.e2e

REDACTED = "<redacted>"


def without_info(answers: list[tuple[str, str, str, Any]]) -> list[tuple[str, str, str, Any]]:
    """A transcript without the info of verbose statuses, whose values are redacted."""
    return [
        (*call, {**answer, "info": REDACTED} if "info" in answer else answer)
        for *call, answer in answers
    ]


def test_a_recorded_pods_life(runtime: Containerd, short_dir: Path, version: str) -> None:
    """A kubelet-like client runs a pod's life on a recording of it: every answer is the same, in
    both versions of the API, also when it is another version than was recorded."""
    logs = short_dir / "logs"
    logs.mkdir()
    pod = Pod("web", logs, runtime.cgroup_parent)
    with Recording(short_dir, runtime.endpoint) as recording:
        with Recorder(recording.endpoint, version) as client:
            live(client, pod)
            recorded = client.transcript()
        assert recording.stop() == 0
    with Replay(short_dir, recording.file, "--pace", "none") as replay:
        for _ in range(2):
            with Recorder(replay.endpoint, version) as client:
                live(client, pod)
                assert without_info(client.transcript()) == without_info(recorded)
        other = {"v1": "v1alpha2", "v1alpha2": "v1"}[version]
        with Recorder(replay.endpoint, other) as client:
            live(client, pod)
            assert [each[2] for each in client.transcript()] == [each[2] for each in recorded]
        assert replay.process.stderr == ""
