"""criproxy replay --as-runtime: a kubelet-like client on a recorded runtime."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from criproxy.client import CriClient
from tests.replay.conftest import Recorded
from tests.support.replaying import IMAGE, Life, Replay, events_of
from tests.support.waiting import LIMIT_SECONDS, wait_until

LIFE_CALLS = -2
"""The recorded client made two calls behind the life."""


def without_info(answers: list[tuple[str, str, Any]]) -> list[tuple[str, str, Any]]:
    """The answers without the info of verbose statuses, which is redacted."""
    for _, _, answer in answers:
        if isinstance(answer, Message) and "info" in answer.DESCRIPTOR.fields_by_name:
            answer.ClearField("info")
    return answers


def test_a_pods_life(short_dir: Path, recorded: Recorded) -> None:
    """Every call of a pod's life, errors included, is answered as it was; so are the events."""
    with Replay(short_dir, recorded.file, "--pace", "none") as replay:
        with Life(replay.endpoint) as life, events_of(life.client) as events:
            life.live()
            wait_until(lambda: len(events) >= len(recorded.events), "the events")
        assert without_info(life.answers) == without_info(recorded.life[:LIFE_CALLS])
        assert events == recorded.events
        assert replay.process.stop() == 0
    assert replay.process.stderr == ""


def test_another_life(short_dir: Path, recorded: Recorded) -> None:
    """A pod that is created again has new ids and the client's uid, in answers and in events."""
    with Replay(short_dir, recorded.file, "--pace", "none") as replay:
        with Life(replay.endpoint) as first:
            first.live()
        with Life(replay.endpoint) as second, events_of(second.client) as events:
            second.live(uid="uid-of-another")
            wait_until(lambda: len(events) >= len(recorded.events), "the events")
    assert (first.sandbox, first.container) == (recorded.sandbox, recorded.container)
    assert len({first.sandbox, second.sandbox, first.container, second.container}) == 4
    text = "".join(str(answer) for _, _, answer in second.answers)
    for old, new in (
        (first.sandbox, second.sandbox),
        (first.container, second.container),
        ("uid-recorded", "uid-of-another"),
    ):
        assert old not in text
        assert new in text
    names = {first.sandbox: second.sandbox, first.container: second.container}
    assert events == [(names[id_], kind) for id_, kind in recorded.events]
    codes = [(method, code) for method, code, _ in second.answers]
    assert codes == [(method, code) for method, code, _ in recorded.life[:LIFE_CALLS]]


def test_the_other_version(short_dir: Path, recorded: Recorded) -> None:
    """A client of v1alpha2 is answered from a recording of v1, in its own version."""
    with (
        Replay(short_dir, recorded.file, "--pace", "none") as replay,
        Life(replay.endpoint, "v1alpha2") as life,
    ):
        life.live()
    assert life.answers[0][2].runtime_api_version == "v1alpha2"
    codes = [(method, code) for method, code, _ in life.answers]
    assert codes == [(method, code) for method, code, _ in recorded.life[:LIFE_CALLS]]
    assert life.sandbox == recorded.sandbox


def test_what_was_never_recorded(short_dir: Path, recorded: Recorded) -> None:
    """A request that was never recorded names its fields and those that were, here and there."""
    with Replay(short_dir, recorded.file) as replay:
        with CriClient(replay.endpoint, timeout=LIMIT_SECONDS) as client:
            with pytest.raises(grpc.RpcError) as failure:
                client.PullImage(image={"image": "nginx:1"})
            assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            text = f"the cassette has no PullImage with image.image 'nginx:1', but with '{IMAGE}'"
            text = text.replace(f"'{IMAGE}'", f"image.image '{IMAGE}'")
            assert failure.value.details() == f"criproxy replay: {text}"
            with pytest.raises(grpc.RpcError) as failure:
                client.ImageFsInfo()
            assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            with pytest.raises(grpc.RpcError) as failure:
                list(client.StreamContainers())
            assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED  # as kubelets expect
        wait_until(lambda: len(replay.process.stderr.splitlines()) >= 3, "the reports")
    assert replay.process.stderr.splitlines()[0] == f"criproxy: {recorded.file}: {text}"


def test_filters_that_were_not_recorded(short_dir: Path, recorded: Recorded) -> None:
    """A list with a filter that was never asked for is a recorded one, filtered."""
    with (
        Replay(short_dir, recorded.file, "--pace", "none") as replay,
        Life(replay.endpoint) as life,
    ):
        everything = life.client.ListContainers().containers
        (wanted, other) = everything
        call = life.client.call
        found = call("ListContainers", filter={"id": wanted.id}).containers
        assert list(found) == [wanted]
        found = call("ListContainers", filter={"pod_sandbox_id": other.pod_sandbox_id}).containers
        assert list(found) == [other]
        found = call("ListContainers", filter={"label_selector": {"no": "such"}}).containers
        assert not found
        exited = {"state": {"state": life.client.messages.CONTAINER_EXITED}}
        assert not call("ListContainers", filter=exited).containers
        everything = call("ListPodSandbox").items
        found = call("ListPodSandbox", filter={"id": everything[0].id}).items
        assert list(found) == [everything[0]]


def test_bad_files(short_dir: Path, recorded: Recorded) -> None:
    """A file that is no cassette is one line and exit status 2; a torn one is served."""
    (short_dir / "text").write_text("hello")
    replay = Replay(short_dir, short_dir / "text")
    replay.process.start()
    assert replay.process.wait(LIMIT_SECONDS) == 2
    assert replay.process.stderr == (
        f"criproxy: {short_dir}/text: byte 0: is no cassette; name a file that criproxy record has "
        "written\n"
    )
    torn = short_dir / "torn"
    torn.write_bytes(recorded.file.read_bytes()[:-1])
    (short_dir / "again").mkdir()
    with Replay(short_dir / "again", torn) as replay:
        assert "damaged or cut off there" in replay.process.stderr
