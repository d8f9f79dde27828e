"""Which pod and which container an id means.

Most calls carry an id alone. What it stands for is remembered from the calls that gave it out
(RunPodSandbox, CreateContainer, RestorePod), and from one listing when the proxy starts; it is
forgotten with RemovePodSandbox and RemoveContainer. Listings and statuses that pass by are not
read: a kubelet asks for them every second, and they tell of nothing that was not made by a call.

A runtime takes the beginning of an id for the id, where only one begins so. So does this: else a
rule about a pod could be avoided by leaving off an id's last letter. What has been removed at the
runtime without the proxy is still remembered, and an id's beginning that it shares is unknown here
until it is forgotten; whole ids are always found.

The image of a container is the one that it was created with: from a kubelet, most often an id.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Generic, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from criproxy.cri.messages import request_class, response_class
from criproxy.cri.methods import METHODS
from criproxy.cri.naming import MethodName
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.rules.errors import EvaluationError
from criproxy.rules.facts import Container, Pod

LIMIT: Final = 10_000
"""Pods, and containers, that are remembered; past it the oldest goes. A node has some hundreds; a
client that makes more than this would only make the proxy grow."""


class _Identified(Protocol):
    @property
    def id(self) -> str: ...


_T = TypeVar("_T", bound=_Identified)


class _Table(Generic[_T]):
    """Things by their ids, or by what only one of the ids begins with."""

    def __init__(self) -> None:
        self._by_id: dict[str, _T] = {}
        self._sorted: list[str] = []

    def __len__(self) -> int:
        return len(self._by_id)

    def put(self, thing: _T) -> None:
        if not thing.id:
            return
        if self._by_id.pop(thing.id, None) is None:
            insort(self._sorted, thing.id)
        self._by_id[thing.id] = thing
        if len(self._by_id) > LIMIT:
            self.remove(next(iter(self._by_id)))

    def put_older(self, things: Iterable[_T]) -> None:
        """Put in, oldest first, what is older than all there is; what is there stays as it is."""
        newer = self._by_id
        merged = {thing.id: thing for thing in things if thing.id and thing.id not in newer} | newer
        self._by_id = dict(list(merged.items())[-LIMIT:])
        self._sorted = sorted(self._by_id)

    def remove(self, id_: str) -> None:
        if self._by_id.pop(id_, None) is not None:
            del self._sorted[bisect_left(self._sorted, id_)]

    def find(self, id_: str) -> _T | None:
        """Look an id up, on whatever thread: what is forgotten meanwhile may not be found."""
        whole = self._by_id.get(id_)
        if whole is not None or not id_:
            return whole
        place = bisect_left(self._sorted, id_)
        beginning = [known for known in self._sorted[place : place + 2] if known.startswith(id_)]
        return self._by_id.get(beginning[0]) if len(beginning) == 1 else None

    def values(self) -> Iterable[_T]:
        return self._by_id.values()


class PodCache:
    """The pods and containers of a runtime, as far as the proxy has been told of them."""

    def __init__(self) -> None:
        self._pods: _Table[Pod] = _Table()
        self._containers: _Table[Container] = _Table()
        self._lessons: Mapping[str, Callable[[Any, Any], None]] = {
            "RunPodSandbox": self._run_pod,
            "RestorePod": self._restore_pod,
            "RemovePodSandbox": self._remove_pod,
            "CreateContainer": self._create_container,
            "RemoveContainer": self._remove_container,
        }
        self._wanted = {
            path.encode(): method
            for method in METHODS.values()
            if method.name in self._lessons
            for path in (method.path, method.path.removeprefix("/"))  # a runtime takes both
        }

    def wants(self, path: bytes) -> bool:
        """Tell whether there is something to learn from calls of this ``:path``."""
        return path in self._wanted

    def learn(self, path: bytes, request: bytes, response: bytes) -> None:
        """Learn from a call that ended with OK: its messages, as the runtime got and gave them.

        Nothing is learned from a path that is not wanted. Raises EvaluationError where a message
        cannot be decoded.
        """
        method = self._wanted.get(path)
        if method is not None:
            self._lessons[method.name](
                _decode(request_class(method), request),
                _decode(response_class(method), response),
            )

    def listed(self, pods: bytes, containers: bytes) -> None:
        """Learn from the responses of ListPodSandbox and ListContainers, in either API version.

        What was learned from calls is newer and stays. Raises EvaluationError where a message
        cannot be decoded; then nothing is learned.
        """
        # The fields that are read have the same numbers and types in v1alpha2.
        listed_pods = _decode(v1.ListPodSandboxResponse, pods)
        listed_containers = _decode(v1.ListContainersResponse, containers)
        self._pods.put_older(
            _pod(each.id, each) for each in sorted(listed_pods.items, key=_created)
        )
        self._containers.put_older(
            _container(each.id, each.pod_sandbox_id, each)
            for each in sorted(listed_containers.containers, key=_created)
        )

    def find(self, named: MethodName, request: Message) -> tuple[Pod | None, Container | None]:
        """Return the pod and the container that a request is about; None for what is not known.

        An id counts before a configuration that the request carries, since the runtime goes by
        the id. Ids in the filter of a listing are nobody's: the call is about all of them.
        """
        if named.api_version is None:
            return None, None
        container = self._containers.find(_text(request, "container_id"))
        if container is not None:
            return self._pods.find(container.pod_id), container
        pod = self._pods.find(_text(request, "pod_sandbox_id"))
        for name in ("sandbox_config", "config"):
            config: Any = _inner(request, name)
            if config is None:
                continue
            kind = config.DESCRIPTOR.name
            if kind == "PodSandboxConfig":
                pod = pod or _pod("", config)
            elif kind == "ContainerConfig":
                container = _container("", pod.id if pod else "", config)
        return pod, container

    def container(self, id_: str) -> tuple[Pod | None, Container | None]:
        """Return the pod and the container of an id, which may be that of a pod sandbox as well."""
        container = self._containers.find(id_)
        return self._pods.find(container.pod_id if container else id_), container

    def pod(self, id_: str) -> Pod | None:
        """Return the pod of a pod sandbox's id."""
        return self._pods.find(id_)

    def container_alone(self, id_: str) -> tuple[Pod | None, Container | None]:
        """Return the pod and the container of an id, which is that of no pod sandbox; neither
        where it is not certain whose the container is."""
        container = self._containers.find(id_)
        if container is None:
            return None, None
        pod = self._pods.find(container.pod_id)
        return (pod, container) if pod is not None and pod.id == container.pod_id else (None, None)

    def _run_pod(self, request: v1.RunPodSandboxRequest, response: Any) -> None:
        self._pods.put(_pod(response.pod_sandbox_id, request.config))

    def _restore_pod(self, request: v1.RestorePodRequest, response: v1.RestorePodResponse) -> None:
        self._pods.put(_pod(response.pod_sandbox_id, request.config))
        configs = {config.metadata.name: config for config in request.container_configs}
        for restored in response.restored_containers:
            config = configs.get(restored.name)
            if config is not None:
                self._containers.put(
                    _container(restored.container_id, response.pod_sandbox_id, config)
                )

    def _remove_pod(self, request: v1.RemovePodSandboxRequest, _: Any) -> None:
        pod = self._pods.find(request.pod_sandbox_id)
        if pod is None:
            return
        self._pods.remove(pod.id)
        for container in [each for each in self._containers.values() if each.pod_id == pod.id]:
            self._containers.remove(container.id)

    def _create_container(self, request: v1.CreateContainerRequest, response: Any) -> None:
        pod = self._pods.find(request.pod_sandbox_id)
        pod_id = request.pod_sandbox_id if pod is None else pod.id
        self._containers.put(_container(response.container_id, pod_id, request.config))

    def _remove_container(self, request: v1.RemoveContainerRequest, _: Any) -> None:
        container = self._containers.find(request.container_id)
        if container is not None:
            self._containers.remove(container.id)


_M = TypeVar("_M", bound=Message)


def _decode(kind: type[_M], message: bytes) -> _M:
    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise EvaluationError("decode", f"{kind.DESCRIPTOR.full_name}: {error}") from error


def _created(listed: v1.PodSandbox | v1.Container) -> int:
    return listed.created_at


def _pod(id_: str, told: Any) -> Pod:
    """Make a pod of a PodSandboxConfig, or of a PodSandbox from a listing."""
    return Pod(
        id=id_,
        namespace=told.metadata.namespace,
        name=told.metadata.name,
        uid=told.metadata.uid,
        labels=dict(told.labels),
        annotations=dict(told.annotations),
    )


def _container(id_: str, pod_id: str, told: Any) -> Container:
    """Make a container of a ContainerConfig, or of a Container from a listing."""
    return Container(
        id=id_,
        name=told.metadata.name,
        image=told.image.image,
        labels=dict(told.labels),
        annotations=dict(told.annotations),
        pod_id=pod_id,
    )


def _text(request: Message, name: str) -> str:
    value = getattr(request, name, "")
    return value if isinstance(value, str) else ""


def _inner(request: Message, name: str) -> Message | None:
    value = getattr(request, name, None)
    return value if isinstance(value, Message) and request.HasField(name) else None
