"""The cache of pods, containers and images by the runtime's ids.

Most calls contain only an id. Its pod or container is known from the call that created it
(RunPodSandbox, CreateContainer, RestorePod), and from one listing when the proxy starts;
RemovePodSandbox and RemoveContainer remove it. Listings and statuses of clients are not read: a
kubelet asks for them every second, and everything in them was created by a call.

Like a runtime, the cache accepts a unique prefix of an id; otherwise a rule about a pod could be
avoided by omitting an id's last letter. A pod that was removed without the proxy stays in the
cache, and a prefix that it shares with another is unknown until then; whole ids are always found.

The names of images are known from pulls and from a listing at the start, so that a container that a
kubelet creates by the id of an image has the name of the image, too (see image_names).
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from criproxy.cri.environment import decode_message
from criproxy.cri.messages import request_class, response_class
from criproxy.cri.methods import METHODS
from criproxy.cri.naming import MethodName
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.rules.errors import EvaluationError
from criproxy.rules.facts import Container, Image, Pod
from criproxy.rules.image_names import HUB, id_of, image_name, image_of, is_name

LIMIT: Final = 10_000
"""Pods, and containers, that are cached; above it the oldest is removed. A node has hundreds; the
limit bounds what a client can add."""

_WITH_IMAGE: Final = frozenset(
    {"CreateContainerRequest", "ImageStatusRequest", "PullImageRequest", "RemoveImageRequest"}
)
"""The requests that name an image."""

_NAMES: Final = 64
"""Names of one image that are cached."""


class _Identified(Protocol):
    @property
    def id(self) -> str: ...


_T = TypeVar("_T", bound=_Identified)


class _Table(Generic[_T]):
    """Items by id, or by a unique prefix of an id, from the oldest to the newest."""

    def __init__(self) -> None:
        self._by_id: OrderedDict[str, _T] = OrderedDict()
        self._sorted: list[str] = []

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, item: _T) -> None:
        if not item.id:
            return
        if self._by_id.pop(item.id, None) is None:
            insort(self._sorted, item.id)
        self._by_id[item.id] = item
        if len(self._by_id) > LIMIT:
            self.remove(next(iter(self._by_id)))

    def add_older(self, items: Iterable[_T]) -> None:
        """Add items, oldest first, as older than all present ones, which stay unchanged.

        The cost is that of the items, however many are present.
        """
        for item in reversed(list(items)):
            if len(self._by_id) >= LIMIT:
                break
            if item.id and item.id not in self._by_id:
                insort(self._sorted, item.id)
                self._by_id[item.id] = item
                self._by_id.move_to_end(item.id, last=False)

    def remove(self, id_: str) -> None:
        if self._by_id.pop(id_, None) is not None:
            del self._sorted[bisect_left(self._sorted, id_)]

    def find(self, id_: str) -> _T | None:
        """Return the item of an id or unique prefix, on any thread.

        An item that is removed at the same time may not be found.
        """
        item = self._by_id.get(id_)
        if item is not None or not id_:
            return item
        index = bisect_left(self._sorted, id_)
        candidates = [each for each in self._sorted[index : index + 2] if each.startswith(id_)]
        return self._by_id.get(candidates[0]) if len(candidates) == 1 else None

    def values(self) -> Iterable[_T]:
        return self._by_id.values()


class PodCache:
    """The pods and containers of a runtime that are known from calls and listings."""

    def __init__(self, short_names: str | None = HUB) -> None:
        self.short_names = short_names
        """How the runtime reads names of images without a registry; see image_names."""
        self._pods: _Table[Pod] = _Table()
        self._containers: _Table[Container] = _Table()
        self._image_names: dict[str, tuple[str, ...]] = {}
        self._updates: Mapping[str, Callable[[Any, Any], None]] = {
            "RunPodSandbox": self._run_pod,
            "RestorePod": self._restore_pod,
            "RemovePodSandbox": self._remove_pod,
            "CreateContainer": self._create_container,
            "RemoveContainer": self._remove_container,
            "PullImage": self._pull_image,
        }
        self._wanted = {
            path.encode(): method
            for method in METHODS.values()
            if method.name in self._updates
            for path in (method.path, method.path.removeprefix("/"))  # a runtime accepts both
        }

    def wants(self, path: bytes) -> bool:
        """Return whether calls of a ``:path`` update the cache."""
        return path in self._wanted

    def update(self, path: bytes, request: bytes, response: bytes) -> None:
        """Update the cache from the messages of a call that ended with OK, as the runtime saw them.

        Does nothing for a path that is not wanted. Raises EvaluationError for a message that cannot
        be decoded.
        """
        self.decode_update(path, request, response)()

    def decode_update(self, path: bytes, request: bytes, response: bytes) -> Callable[[], None]:
        """Decode the messages of :meth:`update`, on any thread; return a function that updates the
        cache from them, to be called on the cache's thread."""
        method = self._wanted.get(path)
        if method is None:
            return lambda: None
        return partial(
            self._updates[method.name],
            _decode(request_class(method), request),
            _decode(response_class(method), response),
        )

    def add_listing(self, pods: bytes = b"", containers: bytes = b"", images: bytes = b"") -> None:
        """Add the responses of ListPodSandbox, ListContainers and ListImages.

        Items from calls are newer and stay unchanged. Raises EvaluationError for a message that
        cannot be decoded; then the cache is unchanged.
        """
        # The fields that are read have the same numbers and types in v1alpha2.
        listed_pods = _decode(v1.ListPodSandboxResponse, pods)
        listed_containers = _decode(v1.ListContainersResponse, containers)
        for image in _decode(v1.ListImagesResponse, images).images:
            self._add_names(image.id, (*image.repo_tags, *image.repo_digests))
        self._pods.add_older(
            _pod(each.id, each) for each in sorted(listed_pods.items, key=_created)
        )
        self._containers.add_older(
            self._container(each.id, each.pod_sandbox_id, each, trusted=True)
            for each in sorted(listed_containers.containers, key=_created)
        )

    def listings(self, size: int) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Yield what is known by name for :meth:`add_listing` of another cache, without labels and
        annotations, at most ``size`` pods, containers and images at a time, the newest first."""
        pods, containers = list(self._pods.values()), list(self._containers.values())
        images = list(self._image_names.items())
        starts = range(0, max(len(pods), len(containers), len(images)), size)
        for start in reversed(starts):
            part = slice(start, start + size)
            yield (
                v1.ListPodSandboxResponse(items=map(_listed_pod, pods[part])).SerializeToString(),
                v1.ListContainersResponse(
                    containers=map(_listed_container, containers[part])
                ).SerializeToString(),
                v1.ListImagesResponse(
                    images=[v1.Image(id=id_, repo_tags=names) for id_, names in images[part]]
                ).SerializeToString(),
            )

    def find(
        self, method_name: MethodName, request: Message, trusted: bool = False
    ) -> tuple[Pod | None, Container | None]:
        """Return the pod and the container that a request is about, None if unknown.

        An id takes precedence over a configuration in the request, as at the runtime. The ids in
        the filter of a listing are ignored. ``trusted``: whether the client is the kubelet, whose
        word on the name of an image counts.
        """
        if method_name.api_version is None:
            return None, None
        container = self._containers.find(_text(request, "container_id"))
        if container is not None:
            return self._pods.find(container.pod_id), self._named(container)
        pod = self._pods.find(_text(request, "pod_sandbox_id"))
        for name in ("sandbox_config", "config"):
            config: Any = _inner(request, name)
            if config is None:
                continue
            kind = config.DESCRIPTOR.name
            if kind == "PodSandboxConfig":
                pod = pod or _pod("", config)
            elif kind == "ContainerConfig":
                container = self._container("", pod.id if pod else "", config, trusted)
        return pod, container

    def image(
        self, request: Message, container: Container | None, trusted: bool = False
    ) -> Image | None:
        """Return the image that a request names, otherwise that of its container.

        It is empty, not None, for a request that could name one: a rule must not be avoided by
        leaving the name out.
        """
        spec = _image_spec(request)
        if spec is not None:
            name = self._image_name(spec, trusted)
            return image_of(name, self.short_names, id_of(spec.image))
        if container is not None:
            return image_of(container.image, self.short_names, container.image_id)
        return Image() if request.DESCRIPTOR.name in _WITH_IMAGE else None

    def image_name(
        self, request: Message, container: Container | None, trusted: bool = False
    ) -> str:
        """Return the name of that image as it was written, or its id; empty if there is none."""
        spec = _image_spec(request)
        if spec is not None:
            return self._image_name(spec, trusted)
        return "" if container is None else container.image

    def container(self, id_: str) -> tuple[Pod | None, Container | None]:
        """Return the pod and the container of a container's or a pod sandbox's id."""
        container = self._containers.find(id_)
        return self._pods.find(container.pod_id if container else id_), container

    def pod(self, id_: str) -> Pod | None:
        """Return the pod of a pod sandbox's id."""
        return self._pods.find(id_)

    def container_only(self, id_: str) -> tuple[Pod | None, Container | None]:
        """Return the pod and the container of a container's id, (None, None) if either is unknown
        or the pod is uncertain."""
        container = self._containers.find(id_)
        if container is None:
            return None, None
        pod = self._pods.find(container.pod_id)
        return (pod, container) if pod is not None and pod.id == container.pod_id else (None, None)

    def _run_pod(self, request: v1.RunPodSandboxRequest, response: Any) -> None:
        self._pods.add(_pod(response.pod_sandbox_id, request.config))

    def _restore_pod(self, request: v1.RestorePodRequest, response: v1.RestorePodResponse) -> None:
        self._pods.add(_pod(response.pod_sandbox_id, request.config))
        configs = {config.metadata.name: config for config in request.container_configs}
        for restored in response.restored_containers:
            config = configs.get(restored.name)
            if config is not None:
                self._containers.add(
                    self._container(restored.container_id, response.pod_sandbox_id, config)
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
        self._containers.add(self._container(response.container_id, pod_id, request.config))

    def _remove_container(self, request: v1.RemoveContainerRequest, _: Any) -> None:
        container = self._containers.find(request.container_id)
        if container is not None:
            self._containers.remove(container.id)

    def _pull_image(self, request: v1.PullImageRequest, response: v1.PullImageResponse) -> None:
        self._add_names(response.image_ref, (request.image.image,))

    def _add_names(self, id_: str, names: tuple[str, ...]) -> None:
        """Add names of an image, the newest first; above the limit the oldest image is removed."""
        known = self._image_names.pop(id_, ())
        full = [image_of(name, self.short_names).name for name in names if is_name(name)]
        if id_ and (full or known):
            self._image_names[id_] = tuple(dict.fromkeys((*full, *known)))[:_NAMES]
        if len(self._image_names) > LIMIT:
            del self._image_names[next(iter(self._image_names))]

    def _image_name(self, spec: Any, trusted: bool) -> str:
        known = self._image_names.get(spec.image, ())
        return image_name(spec, known, trusted, self.short_names)

    def _named(self, container: Container) -> Container:
        """Return a container with the name of its image, if that was learnt after its id."""
        known = () if is_name(container.image) else self._image_names.get(container.image)
        return replace(container, image=known[0]) if known else container

    def _container(self, id_: str, pod_id: str, message: Any, trusted: bool = False) -> Container:
        """Return the container of a ContainerConfig, or of a Container from a listing."""
        return Container(
            id=id_,
            name=message.metadata.name,
            image=self._image_name(message.image, trusted),
            labels=dict(message.labels),
            annotations=dict(message.annotations),
            pod_id=pod_id,
            image_id=id_of(message.image.image),
        )


_M = TypeVar("_M", bound=Message)


def _decode(kind: type[_M], message: bytes) -> _M:
    try:
        return decode_message(kind, message)
    except DecodeError as error:
        raise EvaluationError("decode", f"{kind.DESCRIPTOR.full_name}: {error}") from error


def _created(listed: v1.PodSandbox | v1.Container) -> int:
    return listed.created_at


def _pod(id_: str, message: Any) -> Pod:
    """Return the pod of a PodSandboxConfig, or of a PodSandbox from a listing."""
    return Pod(
        id=id_,
        namespace=message.metadata.namespace,
        name=message.metadata.name,
        uid=message.metadata.uid,
        labels=dict(message.labels),
        annotations=dict(message.annotations),
    )


def _listed_pod(pod: Pod) -> v1.PodSandbox:
    metadata = v1.PodSandboxMetadata(name=pod.name, namespace=pod.namespace, uid=pod.uid)
    return v1.PodSandbox(id=pod.id, metadata=metadata)


def _listed_container(container: Container) -> v1.Container:
    return v1.Container(
        id=container.id,
        pod_sandbox_id=container.pod_id,
        metadata=v1.ContainerMetadata(name=container.name),
        image=v1.ImageSpec(image=container.image),
    )


def _image_spec(request: Message) -> Any:
    spec = _inner(request, "image")
    return spec if spec is not None and spec.DESCRIPTOR.name == "ImageSpec" else None


def _text(request: Message, name: str) -> str:
    value = getattr(request, name, "")
    return value if isinstance(value, str) else ""


def _inner(request: Message, name: str) -> Message | None:
    value = getattr(request, name, None)
    return value if isinstance(value, Message) and request.HasField(name) else None
