"""The pods that a client may see and use in one call, and removal of all others from messages.

Tables list the fields of all requests about pods, and of the items in responses. A method of a
future CRI whose messages have other fields is denied to clients that may see only some pods.

An id is accepted only if the pod cache knows its pod, and is replaced in the request by the whole
id: the runtime could resolve a prefix, or an empty id, to another pod.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from criproxy.cri.messages import request_class, response_class
from criproxy.cri.methods import Method
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.peers.peer import Peer
from criproxy.rules.callers import any_glob
from criproxy.rules.facts import Container, Pod
from criproxy.rules.pod_cache import PodCache
from criproxy.rules.profiles.profile import ProfileSpec

M = TypeVar("M", bound=Message)

NAMESPACE: Final = "namespace"
OWN_POD: Final = "own_pod"
UNKNOWN_POD: Final = "unknown_pod"

_MAKES_PODS: Final = frozenset({"RunPodSandbox", "RestorePod"})

_REQUESTS: Final[Mapping[str, frozenset[str]]] = {
    "AttachRequest": frozenset({"container_id", "stdin", "tty", "stdout", "stderr"}),
    "CheckpointContainerRequest": frozenset({"container_id", "location", "timeout"}),
    "CheckpointPodRequest": frozenset(
        {"pod_sandbox_id", "output_path", "container_ids", "options"}
    ),
    "ContainerStatsRequest": frozenset({"container_id"}),
    "ContainerStatusRequest": frozenset({"container_id", "verbose"}),
    "CreateContainerRequest": frozenset({"pod_sandbox_id", "config", "sandbox_config"}),
    "ExecRequest": frozenset({"container_id", "cmd", "tty", "stdin", "stdout", "stderr"}),
    "ExecSyncRequest": frozenset({"container_id", "cmd", "timeout"}),
    "GetEventsRequest": frozenset(),
    "ListContainerStatsRequest": frozenset({"filter"}),
    "ListContainersRequest": frozenset({"filter"}),
    "ListPodSandboxMetricsRequest": frozenset(),
    "ListPodSandboxRequest": frozenset({"filter"}),
    "ListPodSandboxStatsRequest": frozenset({"filter"}),
    "PodSandboxStatsRequest": frozenset({"pod_sandbox_id"}),
    "PodSandboxStatusRequest": frozenset({"pod_sandbox_id", "verbose"}),
    "PortForwardRequest": frozenset({"pod_sandbox_id", "port"}),
    "RemoveContainerRequest": frozenset({"container_id"}),
    "RemovePodSandboxRequest": frozenset({"pod_sandbox_id"}),
    "ReopenContainerLogRequest": frozenset({"container_id"}),
    "RestorePodRequest": frozenset(
        {"checkpoint_path", "config", "runtime_handler", "options", "container_configs"}
    ),
    "RunPodSandboxRequest": frozenset({"config", "runtime_handler"}),
    "StartContainerRequest": frozenset({"container_id"}),
    "StopContainerRequest": frozenset({"container_id", "timeout"}),
    "StopPodSandboxRequest": frozenset({"pod_sandbox_id"}),
    "StreamContainerStatsRequest": frozenset({"filter"}),
    "StreamContainersRequest": frozenset({"filter"}),
    "StreamPodSandboxMetricsRequest": frozenset(),
    "StreamPodSandboxStatsRequest": frozenset({"filter"}),
    "StreamPodSandboxesRequest": frozenset({"filter"}),
    "UpdateContainerResourcesRequest": frozenset(
        {"container_id", "linux", "windows", "annotations"}
    ),
    "UpdatePodSandboxResourcesRequest": frozenset({"pod_sandbox_id", "overhead", "resources"}),
}
"""The requests about pods, with all of their fields."""

NOT_ABOUT_PODS: Final = frozenset(
    {
        "ImageFsInfo",
        "ImageStatus",
        "ListImages",
        "ListMetricDescriptors",
        "PullImage",
        "RemoveImage",
        "RuntimeConfig",
        "Status",
        "StreamImages",
        "UpdateRuntimeConfig",
        "Version",
    }
)
"""The methods that are not about a pod (PullImage may contain the pod that needs the image)."""

_PLAIN: Final = frozenset({"exit_code", "info", "stderr", "stdout", "timestamp", "url"})
"""Fields of responses that belong to the pod of the request."""

_ITEMS: Final[Mapping[str, str]] = {
    "Container": "container of a pod",
    "ContainerStats": "container by attributes",
    "ContainerStatus": "container by id",
    "PodSandbox": "pod",
    "PodSandboxMetrics": "pod by id",
    "PodSandboxStats": "pod by attributes",
    "PodSandboxStatus": "pod",
}
"""The messages about a pod or container, and how its pod is determined."""

_EVENT: Final = frozenset(
    {
        "container_id",
        "container_event_type",
        "created_at",
        "pod_sandbox_status",
        "containers_statuses",
    }
)
_DELETED: Final = v1.CONTAINER_DELETED_EVENT
_MADE: Final = frozenset({"container_id", "pod_sandbox_id", "restored_containers"})
"""Fields of the responses of methods that create pods and containers: ids in the request's pod."""


def is_about_pods(method: Method) -> bool:
    """Return whether calls of a method may be about pods or containers."""
    return method.name not in NOT_ABOUT_PODS


def is_about_one(method: Method) -> bool:
    """Return whether a request of a method names one pod or container."""
    fields = request_class(method).DESCRIPTOR.fields_by_name
    return any(name in fields for name in ("container_id", "pod_sandbox_id", "config"))


def is_in_tables(method: Method) -> bool:
    """Return whether the tables contain all fields of a method's messages."""
    if not is_about_pods(method):
        return True
    request = request_class(method).DESCRIPTOR
    known = _REQUESTS.get(request.name)
    if known is None or not {field.name for field in request.fields} <= known:
        return False
    response = response_class(method).DESCRIPTOR
    names = {field.name for field in response.fields}
    if response.name == "ContainerEventResponse":
        return names <= _EVENT
    if method.mutating and names <= _MADE:
        return True
    return all(
        field.name in _PLAIN or (field.message_type and field.message_type.name in _ITEMS)
        for field in response.fields
    )


class NotVisibleError(Exception):
    """A call about a pod that its client may not see; ``reason`` is NAMESPACE, OWN_POD or
    UNKNOWN_POD, and must not be disclosed to the client."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class PodVisibility:
    """The pods that the client of one call may see."""

    def __init__(self, spec: ProfileSpec, peer: Peer, pod_cache: PodCache) -> None:
        self._spec = spec
        self._pod_cache = pod_cache
        self._own_id = self._own_uid = ""
        self._seen: set[str] = set()
        if spec.own_pod:
            pod = _pod_of(pod_cache, peer.container or "")
            if pod is not None:
                self._own_id, self._own_uid = pod.id, pod.uid
            else:
                self._own_uid = peer.pod_uid or ""
        self._visibility_checks: Mapping[str, Callable[[Any], bool]] = {
            "Container": lambda item: self._sees_id(item.pod_sandbox_id),
            "ContainerStats": lambda item: self._sees_container(item.attributes.id),
            "ContainerStatus": lambda item: self._sees_container(item.id),
            "PodSandbox": self._sees_described,
            "PodSandboxMetrics": lambda item: self._sees_id(item.pod_sandbox_id),
            "PodSandboxStats": lambda item: self._sees_described(item.attributes),
            "PodSandboxStatus": self._sees_described,
        }

    @property
    def sees_no_pod(self) -> bool:
        """Whether the client may see only its own pod and has none."""
        return self._spec.own_pod and not self._own_id and not self._own_uid

    def narrow_request(self, method: Method, request: M) -> M:
        """Return a copy of the request with whole ids and without unknown fields.

        Raises NotVisibleError if the request is about a pod that is not visible.
        """
        copy = type(request)()
        copy.CopyFrom(request)
        copy.DiscardUnknownFields()
        narrowed: Any = copy
        if method.name in _MAKES_PODS:
            if self._spec.own_pod:
                raise NotVisibleError(OWN_POD)
            self._check_config(narrowed.config)
        for field in narrowed.DESCRIPTOR.fields:
            if field.name == "container_id":
                narrowed.container_id = self._visible_container_id(narrowed.container_id)
            elif field.name == "container_ids":
                narrowed.container_ids[:] = [
                    self._visible_container_id(each) for each in narrowed.container_ids
                ]
            elif field.name == "pod_sandbox_id":
                narrowed.pod_sandbox_id = self._visible_pod_id(narrowed.pod_sandbox_id)
            elif field.name == "sandbox_config" and narrowed.HasField("sandbox_config"):
                self._check_config(narrowed.sandbox_config)
        return copy

    def narrow_response(self, response: Message) -> bool:
        """Remove the items of pods that are not visible from a response, in place.

        Returns whether anything is left of it. Raises NotVisibleError if the response is about
        another pod than the request.
        """
        message: Any = response
        if response.DESCRIPTOR.name == "ContainerEventResponse":
            return self._sees_event(message)
        left = removed = False
        for field in response.DESCRIPTOR.fields:
            sees = (
                self._visibility_checks.get(field.message_type.name) if field.message_type else None
            )
            if sees is None:
                left = left or field.name in _PLAIN
            elif field.is_repeated:
                if response.DESCRIPTOR.name == "PodSandboxStatusResponse":
                    continue  # the containers of the pod in the same response
                items = getattr(message, field.name)
                for index in [at for at, item in enumerate(items) if not sees(item)][::-1]:
                    del items[index]
                    removed = True
                left = left or len(items) > 0
            elif response.HasField(field.name):
                if not sees(getattr(message, field.name)):
                    raise NotVisibleError(UNKNOWN_POD)
                left = True
        return left or not removed

    def _sees(self, pod: Pod) -> bool:
        spec = self._spec
        if spec.namespaces is not None and not any_glob(spec.namespaces, pod.namespace):
            return False
        return not spec.own_pod or self._is_own(pod.id, pod.uid)

    def _is_own(self, id_: str, uid: str) -> bool:
        return bool(id_ and id_ == self._own_id) or bool(uid and uid == self._own_uid)

    def _check(self, pod: Pod | None) -> Pod:
        if pod is None:
            raise NotVisibleError(UNKNOWN_POD)
        if not self._sees(pod):
            namespaces = self._spec.namespaces
            hidden = namespaces is not None and not any_glob(namespaces, pod.namespace)
            raise NotVisibleError(NAMESPACE if hidden else OWN_POD)
        return pod

    def _visible_pod_id(self, id_: str) -> str:
        return self._check(self._pod_cache.pod(id_)).id

    def _visible_container_id(self, container_id: str) -> str:
        pod, container = self._pod_cache.container_only(container_id)
        self._check(pod)
        assert container is not None  # a pod was returned with it
        return container.id

    def _check_config(self, config: Any) -> None:
        metadata = config.metadata
        self._check(Pod("", metadata.namespace, metadata.name, metadata.uid))

    def _sees_id(self, pod_id: str) -> bool:
        pod = self._pod_cache.pod(pod_id)
        return pod is not None and pod.id == pod_id and self._sees(pod)

    def _sees_container(self, id_: str) -> bool:
        pod, container = self._pod_cache.container_only(id_)
        return _is_whole(container, id_) and pod is not None and self._sees(pod)

    def _sees_described(self, item: Any) -> bool:
        """Return whether the pod of a message with its id and metadata is visible."""
        metadata = item.metadata
        return bool(item.id) and self._sees(
            Pod(item.id, metadata.namespace, metadata.name, metadata.uid)
        )

    def _sees_event(self, event: Any) -> bool:
        """Return whether an event is visible.

        The last event of a pod or container that was visible is visible, too: it may not contain
        the pod's status, and the pod may have been removed from the cache.
        """
        id_ = event.container_id
        if event.HasField("pod_sandbox_status"):
            sees = self._sees_described(event.pod_sandbox_status)
        else:
            sees = not event.containers_statuses and (
                id_ in self._seen or self._sees_container(id_) or self._sees_id(id_)
            )
        if sees and event.container_event_type != _DELETED:
            self._seen.add(id_)
        elif event.container_event_type == _DELETED:
            self._seen.discard(id_)
        return sees


def _pod_of(pod_cache: PodCache, id_: str) -> Pod | None:
    """Return the pod of the whole id of a container, or of a pod sandbox's own container."""
    pod, container = pod_cache.container_only(id_)
    if container is None:
        pod = pod_cache.pod(id_)
        return pod if pod is not None and pod.id == id_ else None
    return pod if container.id == id_ else None


def _is_whole(container: Container | None, id_: str) -> bool:
    return container is not None and container.id == id_
