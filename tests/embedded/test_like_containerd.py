"""The embedded runtime answers as containerd does: both against one record of containerd 1.6.

The record is made anew with ``python -m tests.embedded.test_like_containerd`` where containerd is
installed; the end-to-end test fails when a containerd answers otherwise.
"""

import tempfile
from pathlib import Path

import pytest

from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from tests.embedded.scenario import Scenario
from tests.support.containerd import Containerd
from tests.support.image import IMAGE
from tests.support.waiting import LIMIT_SECONDS

RECORD = Path(__file__).parents[1] / "data" / "cri" / "containerd-1.6-answers.txt"
VERSIONS = ("v1", "v1alpha2")


def ask_containerd(directory: Path, version: str) -> list[str]:
    with Containerd(directory) as containerd:
        containerd.import_image()
        with CriClient(containerd.endpoint, version, timeout=LIMIT_SECONDS) as client:
            return Scenario(client, IMAGE, containerd.cgroup_parent).walk()


@pytest.mark.parametrize("version", VERSIONS)
def test_embedded_runtime_answers_as_containerd(short_dir: Path, version: str) -> None:
    """Every code, text, state, exit code and list is what containerd 1.6 gave."""
    with (
        EmbeddedRuntime(f"unix://{short_dir}/cri.sock") as runtime,
        CriClient(runtime.endpoint, version, timeout=LIMIT_SECONDS) as client,
    ):
        client.PullImage(image={"image": IMAGE})
        answers = Scenario(client, IMAGE).walk()
    assert answers == RECORD.read_text().splitlines()


@pytest.mark.e2e
@pytest.mark.parametrize("version", VERSIONS)
def test_record_is_true(short_dir: Path, version: str) -> None:
    """The record is what a real containerd answers, in both versions of the API."""
    assert ask_containerd(short_dir, version) == RECORD.read_text().splitlines()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="crp-") as name:
        RECORD.write_text("\n".join(ask_containerd(Path(name), "v1")) + "\n")
