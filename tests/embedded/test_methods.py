"""Every method of both API versions, and the special cases of some."""

from typing import Any

import grpc
import pytest
from google.protobuf.unknown_fields import UnknownFieldSet

from criproxy import __version__
from criproxy.client import CriClient
from criproxy.cri.messages import request_class
from criproxy.cri.methods import METHODS, Method
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.embedded.services.chunks import ITEMS
from tests.support.waiting import LIMIT_SECONDS

IMAGE = "docker.io/library/busybox:1.36"
POD = {"metadata": {"name": "web", "uid": "u1", "namespace": "shop"}, "labels": {"app": "web"}}


def run_container(client: CriClient, name: str = "main", **config: Any) -> tuple[str, str]:
    """Run a pod with a container; return both ids."""
    pod = client.RunPodSandbox(config=POD).pod_sandbox_id
    return pod, add_container(client, pod, name, **config)


def add_container(client: CriClient, pod: str, name: str, **config: Any) -> str:
    config = {"metadata": {"name": name}, "image": {"image": IMAGE}, **config}
    created = client.CreateContainer(pod_sandbox_id=pod, config=config, sandbox_config=POD)
    client.StartContainer(container_id=created.container_id)
    return str(created.container_id)


def arguments(method: Method, pod: str, container: str) -> dict[str, Any]:
    """Return a request that must succeed in a runtime with one running container."""
    other = {"metadata": {"name": "other", "uid": "u2", "namespace": "shop"}}
    special: dict[str, dict[str, Any]] = {
        "Attach": {"stdout": True},
        "CheckpointContainer": {"location": "/tmp/one"},
        "CheckpointPod": {"output_path": "/tmp/pod"},
        "CreateContainer": {"config": {"metadata": {"name": "two"}, "image": {"image": IMAGE}}},
        "Exec": {"cmd": ["true"], "stdout": True},
        "ExecSync": {"cmd": ["true"]},
        "ImageStatus": {"image": {"image": IMAGE}},
        "PullImage": {"image": {"image": "docker.io/library/redis:7"}},
        "RemoveImage": {"image": {"image": IMAGE}},
        "RestorePod": {"checkpoint_path": "/tmp/kept", "config": other},
        "RunPodSandbox": {"config": other},
    }
    fields = dict(special.get(method.name, {}))
    request = request_class(method).DESCRIPTOR.fields_by_name
    if "pod_sandbox_id" in request:
        fields["pod_sandbox_id"] = pod
    if "container_id" in request:
        fields["container_id"] = container
    return fields


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.path)
def test_every_method_is_answered(runtime: EmbeddedRuntime, method: Method) -> None:
    """Each method of both versions succeeds on believable state."""
    with CriClient(runtime.endpoint, "v1", timeout=LIMIT_SECONDS) as v1:
        pod, container = run_container(v1)
        if method.name == "RestorePod":
            v1.CheckpointPod(pod_sandbox_id=pod, output_path="/tmp/kept")
        if method.name == "StartContainer":
            config = {"metadata": {"name": "new"}, "image": {"image": IMAGE}}
            created = v1.CreateContainer(pod_sandbox_id=pod, config=config)
            container = created.container_id
    with CriClient(runtime.endpoint, method.api_version, timeout=LIMIT_SECONDS) as client:
        answer = client.call(method.name, **arguments(method, pod, container))
        if method.name == "GetContainerEvents":
            assert answer.initial_metadata() is not None
        elif method.server_streaming:
            assert len(list(answer)) == 1
        else:
            assert len(UnknownFieldSet(answer)) == 0


@pytest.mark.parametrize("version", ["v1", "v1alpha2"])
def test_version_names_the_runtime(runtime: EmbeddedRuntime, version: str) -> None:
    """Version gives the kubelet's API version, criproxy's own, and the one it is asked in."""
    with CriClient(runtime.endpoint, version, timeout=LIMIT_SECONDS) as client:
        answer = client.Version()
    assert (answer.version, answer.runtime_name) == ("0.1.0", "criproxy-embedded")
    assert (answer.runtime_version, answer.runtime_api_version) == (__version__, version)


def test_v1alpha2_leaves_out_what_it_lacks(runtime: EmbeddedRuntime) -> None:
    """A v1alpha2 client gets no fields that only v1 has, and sees what v1 clients made."""
    with (
        CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as v1,
        CriClient(runtime.endpoint, "v1alpha2", timeout=LIMIT_SECONDS) as old,
    ):
        _, container = run_container(v1)
        (listed,) = old.ListContainers().containers
        status = old.ContainerStatus(container_id=container).status
        assert v1.ListContainers().containers[0].image_id == listed.image_ref
    assert listed.id == container
    assert len(UnknownFieldSet(listed)) == len(UnknownFieldSet(status)) == 0


def test_unknown_service_is_unimplemented(client: CriClient) -> None:
    """A path that is in no version of the CRI gives UNIMPLEMENTED."""
    with (
        grpc.insecure_channel(f"unix:{client.endpoint.path}") as channel,
        pytest.raises(grpc.RpcError) as raised,
    ):
        channel.unary_unary("/runtime.v2.RuntimeService/Version")(b"")
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_malformed_request_is_refused(client: CriClient) -> None:
    """Bytes that are no message give INTERNAL, as grpc-go's servers do."""
    with (
        grpc.insecure_channel(f"unix:{client.endpoint.path}") as channel,
        pytest.raises(grpc.RpcError) as raised,
    ):
        channel.unary_unary("/runtime.v1.RuntimeService/ListContainers")(b"\xff")
    assert raised.value.code() is grpc.StatusCode.INTERNAL


def test_status_keeps_the_whole_configuration(client: CriClient) -> None:
    """What was asked for comes back: labels, annotations, mounts, limits, log path, user."""
    config: dict[str, Any] = {
        "labels": {"a": "b"},
        "annotations": {"c": "d"},
        "mounts": [{"container_path": "/x", "host_path": "/y", "readonly": True}],
        "log_path": "main/0.log",
        "linux": {
            "resources": {"cpu_shares": 100, "memory_limit_in_bytes": 1 << 26},
            "security_context": {"run_as_user": {"value": 1000}},
        },
        "stop_signal": "SIGNAL_SIGQUIT",
    }
    pod = client.RunPodSandbox(config=POD | {"log_directory": "/var/log/pods/web"}).pod_sandbox_id
    created = client.CreateContainer(
        pod_sandbox_id=pod,
        config={"metadata": {"name": "main"}, "image": {"image": IMAGE}, **config},
    )
    status = client.ContainerStatus(container_id=created.container_id).status
    assert (dict(status.labels), dict(status.annotations)) == ({"a": "b"}, {"c": "d"})
    assert status.mounts[0].container_path == "/x"
    assert status.log_path == "/var/log/pods/web/main/0.log"
    assert status.resources.linux.memory_limit_in_bytes == 1 << 26
    assert status.user.linux.uid == 1000
    assert status.stop_signal == client.messages.SIGNAL_SIGQUIT


def test_update_changes_only_what_is_set(client: CriClient) -> None:
    """UpdateContainerResources leaves the limits alone that the request does not set."""
    limits = {"resources": {"cpu_shares": 100, "memory_limit_in_bytes": 1 << 26}}
    _, container = run_container(client, linux=limits)
    client.UpdateContainerResources(container_id=container, linux={"cpu_shares": 200})
    linux = client.ContainerStatus(container_id=container).status.resources.linux
    assert (linux.cpu_shares, linux.memory_limit_in_bytes) == (200, 1 << 26)


def test_verbose_adds_the_details(client: CriClient) -> None:
    """Status, sandbox, container and image give information in JSON only when verbose."""
    pod, container = run_container(client)
    for name, fields in (
        ("Status", {}),
        ("PodSandboxStatus", {"pod_sandbox_id": pod}),
        ("ContainerStatus", {"container_id": container}),
        ("ImageStatus", {"image": {"image": IMAGE}}),
    ):
        assert not client.call(name, **fields).info
        assert client.call(name, verbose=True, **fields).info


def test_streamed_lists_give_what_the_lists_give(client: CriClient) -> None:
    """A Stream* call sends the list's items in order, a limited number in each message."""
    pod, _ = run_container(client)
    for index in range(ITEMS):
        add_container(client, pod, f"c{index}")
    parts = list(client.StreamContainers())
    assert [len(part.containers) for part in parts] == [ITEMS, 1]
    streamed = [container for part in parts for container in part.containers]
    assert streamed == list(client.ListContainers().containers)


def test_empty_streamed_list_has_no_message(client: CriClient) -> None:
    """A Stream* call without items ends with OK and without a message."""
    assert list(client.StreamPodSandboxes()) == []


def test_pod_on_the_host_network_has_no_address(client: CriClient) -> None:
    """A sandbox on the node's network has no address of its own, others have different ones."""
    node = {"security_context": {"namespace_options": {"network": "NODE"}}}
    addresses = []
    for name, linux in (("a", {}), ("b", {}), ("c", node)):
        config = {"metadata": {"name": name}, "linux": linux}
        id_ = client.RunPodSandbox(config=config).pod_sandbox_id
        addresses.append(client.PodSandboxStatus(pod_sandbox_id=id_).status.network.ip)
    assert addresses == ["10.88.0.2", "10.88.0.3", ""]


def test_stats_grow_while_a_container_runs(client: CriClient) -> None:
    """CPU time never goes back, and a pod's stats have its containers'."""
    pod, container = run_container(client)
    first = client.ContainerStats(container_id=container).stats.cpu
    second = client.ContainerStats(container_id=container).stats.cpu
    assert second.timestamp > first.timestamp
    assert second.usage_core_nano_seconds.value >= first.usage_core_nano_seconds.value
    stats = client.PodSandboxStats(pod_sandbox_id=pod).stats
    assert [c.attributes.id for c in stats.linux.containers] == [container]


def test_checkpointed_pod_can_be_restored(client: CriClient) -> None:
    """RestorePod runs the pod and the containers that CheckpointPod kept, once there is room."""
    pod, _ = run_container(client, "main")
    client.CheckpointPod(pod_sandbox_id=pod, output_path="/tmp/kept")
    client.RemovePodSandbox(pod_sandbox_id=pod)
    answer = client.RestorePod(checkpoint_path="/tmp/kept")
    (container,) = client.ListContainers().containers
    assert container.pod_sandbox_id == answer.pod_sandbox_id
    assert [(c.name, c.container_id) for c in answer.restored_containers] == [
        ("main", container.id)
    ]
    assert container.state == client.messages.CONTAINER_RUNNING


@pytest.mark.parametrize(
    ("method", "fields", "code"),
    [
        ("CheckpointContainer", {"container_id": "0" * 64, "location": "/x"}, "NOT_FOUND"),
        ("CheckpointContainer", {"container_id": "running"}, "INVALID_ARGUMENT"),
        ("CheckpointContainer", {"container_id": "exited", "location": "/x"}, "UNKNOWN"),
        ("CheckpointPod", {"pod_sandbox_id": "0" * 64, "output_path": "/x"}, "NOT_FOUND"),
        ("CheckpointPod", {"pod_sandbox_id": "pod"}, "INVALID_ARGUMENT"),
        (
            "CheckpointPod",
            {"pod_sandbox_id": "pod", "output_path": "/x", "container_ids": ["exited"]},
            "UNKNOWN",
        ),
        ("CheckpointPod", {"pod_sandbox_id": "stopped", "output_path": "/x"}, "UNKNOWN"),
        ("RestorePod", {"checkpoint_path": "/x"}, "NOT_FOUND"),
        ("UpdatePodSandboxResources", {"pod_sandbox_id": "0" * 64}, "NOT_FOUND"),
    ],
)
def test_methods_that_containerd_lacks_fail_alike(
    client: CriClient, method: str, fields: dict[str, Any], code: str
) -> None:
    """What containerd 1.6 does not have yet fails by the same rules: ids, states, arguments."""
    pod, running = run_container(client)
    exited = add_container(client, pod, "exited", command=["sleep", "1000"])
    client.StopContainer(container_id=exited, timeout=0)
    stopped = client.RunPodSandbox(config={"metadata": {"name": "stopped"}}).pod_sandbox_id
    client.StopPodSandbox(pod_sandbox_id=stopped)
    ids = {"pod": pod, "running": running, "exited": exited, "stopped": stopped}
    request: dict[str, Any] = {
        key: [ids[one] for one in value] if isinstance(value, list) else ids.get(value, value)
        for key, value in fields.items()
    }
    with pytest.raises(grpc.RpcError) as raised:
        client.call(method, **request)
    assert raised.value.code().name == code


def test_stats_filters(client: CriClient) -> None:
    """Lists of stats follow their filters, and leave out the pods that are stopped."""
    pod, one = run_container(client, "one", labels={"n": "1"})
    two = add_container(client, pod, "two", labels={"n": "2"})
    other = client.RunPodSandbox(config={"metadata": {"name": "other"}}).pod_sandbox_id

    def containers(**wanted: Any) -> list[str]:
        return [s.attributes.id for s in client.ListContainerStats(filter=wanted).stats]

    def pods(**wanted: Any) -> list[str]:
        return [s.attributes.id for s in client.ListPodSandboxStats(filter=wanted).stats]

    assert containers() == [one, two]
    assert containers(id=two[:32]) == [two]
    assert containers(label_selector={"n": "1"}) == [one]
    assert containers(pod_sandbox_id=other) == []
    assert pods() == [pod, other]
    assert pods(label_selector={"app": "web"}) == pods(id=pod) == [pod]
    client.StopPodSandbox(pod_sandbox_id=other)
    assert pods() == [pod]


def test_container_that_ignores_sigterm_is_killed_after_the_grace(client: CriClient) -> None:
    """StopContainer waits for the grace and then kills what did not heed SIGTERM."""
    _, container = run_container(client, command=["sleep", "1000"])
    client.StopContainer(container_id=container, timeout=1)
    assert client.ContainerStatus(container_id=container).status.exit_code == 137


def test_stop_returns_when_the_process_ends_by_itself(client: CriClient) -> None:
    """A process that ends within the grace keeps its own exit code."""
    _, container = run_container(client, command=["sleep", "0.2"])
    client.StopContainer(container_id=container, timeout=60)
    assert client.ContainerStatus(container_id=container).status.exit_code == 0


def test_ambiguous_prefix_is_refused(client: CriClient) -> None:
    """A prefix that more than one id begins with is an error that says so."""
    pod, _ = run_container(client)
    ids = {add_container(client, pod, f"c{index}") for index in range(16)}
    digits = [id_[0] for id_ in [*ids, *(c.id for c in client.ListContainers().containers)]]
    twice = next(digit for digit in digits if digits.count(digit) > 2)
    with pytest.raises(grpc.RpcError) as raised:
        client.ContainerStatus(container_id=twice)
    assert raised.value.code() is grpc.StatusCode.UNKNOWN
    assert "multiple IDs found" in raised.value.details()
