"""The kubelet-like client, on the embedded runtime and on a real one."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.embedded.kubelet import LABEL, Kubelet
from criproxy.errors import UnavailableError
from tests.support.containerd import Containerd
from tests.support.image import IMAGE
from tests.support.waiting import LIMIT_SECONDS

LIFE = {
    "RunPodSandbox",
    "PodSandboxStatus",
    "ImageStatus",
    "CreateContainer",
    "StartContainer",
    "ContainerStatus",
    "ContainerStats",
    "ExecSync",
    "StopContainer",
    "StopPodSandbox",
    "RemoveContainer",
    "RemovePodSandbox",
}
"""The calls of one pod's life."""


class Calls:
    """Notes the calls, and sets ``done`` once ``enough`` says so."""

    def __init__(self, enough: Callable[["Calls"], bool]) -> None:
        self.seen: list[tuple[str, str, str]] = []
        self.seconds: list[float] = []
        self.done = threading.Event()
        self._enough = enough

    def __call__(self, method: str, pod: str, code: str, seconds: float) -> None:
        self.seen.append((method, pod, code))
        self.seconds.append(seconds)
        if self._enough(self):
            self.done.set()

    @property
    def methods(self) -> set[str]:
        return {method for method, _, _ in self.seen}

    @property
    def codes(self) -> set[str]:
        return {code for method, _, code in self.seen if method != "GetContainerEvents"}


def one_whole_life(calls: Calls) -> bool:
    return "RemovePodSandbox" in calls.methods


def run_and_then(kubelet: Kubelet, calls: Calls, then: Callable[[], None]) -> None:
    with kubelet:
        kubelet.run(calls.done, LIMIT_SECONDS)
        then()


def interrupt() -> None:
    raise KeyboardInterrupt


def test_run_shows_whole_lives_and_leaves_nothing(runtime: EmbeddedRuntime) -> None:
    """Pods go through their whole life, lists are read meanwhile, and nothing is left."""
    calls = Calls(one_whole_life)
    image = "host.test/app:1"
    with Kubelet(runtime.endpoint, on_call=calls, image=image, probe=["true"]) as kubelet:
        kubelet.run(calls.done, LIMIT_SECONDS)
    relist = {"ListPodSandbox", "ListContainers", "ListContainerStats", "ImageFsInfo"}
    assert calls.methods >= LIFE | relist | {"Version", "Status", "PullImage", "RemoveImage"}
    assert calls.codes == {"OK"}
    assert min(calls.seconds) > 0
    assert {method for method, pod, _ in calls.seen if pod == "demo-0"} == LIFE
    with CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as client:
        assert not client.ListPodSandbox().items
        assert not client.ListContainers().containers
        assert not client.ImageStatus(image={"image": image}).HasField("image")


def test_old_version_of_the_api_will_do(runtime: EmbeddedRuntime) -> None:
    """In v1alpha2 the kubelet does without the event stream."""
    calls = Calls(one_whole_life)
    with Kubelet(runtime.endpoint, on_call=calls, api_version="v1alpha2") as kubelet:
        kubelet.run(calls.done, LIMIT_SECONDS)
    assert calls.codes == {"OK"}
    assert "GetContainerEvents" not in calls.methods


def test_interrupted_run_is_cleaned_up(runtime: EmbeddedRuntime) -> None:
    """An exception in the middle of a pod's life leaves nothing of the run, and others' pods."""
    with CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as client:
        other = client.RunPodSandbox(config={"metadata": {"name": "other"}}).pod_sandbox_id
        calls = Calls(lambda calls: "StartContainer" in calls.methods)
        with pytest.raises(KeyboardInterrupt):
            run_and_then(Kubelet(runtime.endpoint, on_call=calls), calls, interrupt)
        assert [pod.id for pod in client.ListPodSandbox().items] == [other]
        assert not client.ListContainers().containers


def test_what_an_earlier_part_left_is_found_by_its_label(runtime: EmbeddedRuntime) -> None:
    """Everything with the run's label is removed, whatever created it."""
    calls = Calls(one_whole_life)
    with CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as client:
        with Kubelet(runtime.endpoint, on_call=calls) as kubelet:
            kubelet.run(calls.done, LIMIT_SECONDS)
            labels = {LABEL: kubelet.run_id}
            client.RunPodSandbox(config={"metadata": {"name": "lost"}, "labels": labels})
        assert not client.ListPodSandbox().items


def test_failing_calls_are_reported_and_the_run_goes_on(runtime: EmbeddedRuntime) -> None:
    """A pod that cannot start is reported with its code, and removed in the end."""
    calls = Calls(lambda calls: "UNKNOWN" in calls.codes and "ListContainers" in calls.methods)
    with Kubelet(
        runtime.endpoint, on_call=calls, command=["/nonexistent/server"], pods=1
    ) as kubelet:
        kubelet.run(calls.done, LIMIT_SECONDS)
    assert ("StartContainer", "demo-0", "UNKNOWN") in calls.seen
    with CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as client:
        assert not client.ListPodSandbox().items


def test_image_that_is_there_is_used(runtime: EmbeddedRuntime) -> None:
    """Without an image the pause image is used, another without that, and none is an error."""
    with CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as client:
        for expected in ("/pause:", "busybox:", "nginx:"):
            calls = Calls(lambda calls: "CreateContainer" in calls.methods)
            with Kubelet(runtime.endpoint, on_call=calls, pods=1) as kubelet:
                kubelet.run(calls.done, LIMIT_SECONDS)
            assert "PullImage" not in calls.methods
            (image,) = [i for i in client.ListImages().images if expected in i.repo_tags[0]]
            client.RemoveImage(image={"image": image.id})
        with pytest.raises(UnavailableError, match="the runtime has no image"):
            Kubelet(runtime.endpoint, on_call=calls).run(calls.done)


def test_unreachable_endpoint_is_an_error_at_once(short_dir: Path) -> None:
    """Without a runtime the run ends before it begins, in one line with the endpoint."""
    calls = Calls(lambda _: False)
    endpoint = f"unix://{short_dir}/none.sock"
    with (
        pytest.raises(UnavailableError, match=f"{endpoint}: UNAVAILABLE"),
        Kubelet(endpoint, on_call=calls) as kubelet,
    ):
        kubelet.run(threading.Event(), LIMIT_SECONDS)
    assert calls.seen == [("Version", "", "UNAVAILABLE")]


def test_stopped_runtime_does_not_hang_the_run(short_dir: Path) -> None:
    """When the runtime goes away the run still ends, and says that it could not clean up."""
    calls = Calls(one_whole_life)
    runtime = EmbeddedRuntime(str(short_dir / "cri.sock"))
    runtime.start()
    with pytest.raises(UnavailableError, match="not all was removed"):
        run_and_then(Kubelet(runtime.endpoint, on_call=calls), calls, runtime.stop)


@pytest.mark.e2e
def test_real_runtime_is_left_as_it_was(short_dir: Path) -> None:
    """On containerd the same lives work with an image that is there, and all of it is removed."""
    calls = Calls(one_whole_life)
    with Containerd(short_dir) as containerd:
        containerd.import_image()
        with Kubelet(
            containerd.endpoint,
            on_call=calls,
            image=IMAGE,
            probe=["/bin/true"],
            cgroup_parent=containerd.cgroup_parent,
        ) as kubelet:
            kubelet.run(calls.done, LIMIT_SECONDS)
        with CriClient(containerd.endpoint, timeout=LIMIT_SECONDS) as client:
            assert not client.ListPodSandbox().items
            assert not client.ListContainers().containers
            assert client.ImageStatus(image={"image": IMAGE}).HasField("image")
    assert calls.codes == {"OK"}
    assert calls.methods >= LIFE
