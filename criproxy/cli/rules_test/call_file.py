"""Reads the calls of ``criproxy rules test`` from YAML, one call a document."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from msgspec import field

from criproxy.config.schema import DEFAULT_ENDPOINT, KubeletConfig
from criproxy.config.yaml_document import Document, parse_all, read_text
from criproxy.configtypes.section import Section
from criproxy.cri.messages import request_class, response_class
from criproxy.cri.methods import METHODS, Method
from criproxy.cri.naming import matches, resolve
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.errors import ConfigError
from criproxy.peers.cgroups import CgroupLocation
from criproxy.peers.credentials import Kubelet
from criproxy.peers.peer import Peer
from criproxy.rules.facts import Container, Facts, Pod
from criproxy.rules.pod_cache import PodCache


class CallerSpec(Section, frozen=True):
    """The caller of a call; by default the kubelet as root."""

    pid: int = 1
    uid: int = 0
    gid: int = 0
    executable: str | None = "/usr/bin/kubelet"
    unit: str | None = None
    kubelet: bool | None = None
    """None: decided by the default ``kubelet`` section of the configuration."""

    def peer(self) -> Peer:
        """Return the caller as the relay would identify it."""
        known, cgroup = KubeletConfig(), CgroupLocation(self.unit)
        kubelet = self.kubelet
        if kubelet is None:
            like = Kubelet(known.executable, known.unit)
            kubelet = like.matches(self.uid, self.executable, cgroup)
        return Peer(self.pid, self.uid, self.gid, self.executable, unit=self.unit, kubelet=kubelet)


class PodSpec(Section, frozen=True):
    """The pod of a call."""

    id: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


class ContainerSpec(Section, frozen=True):
    """The container of a call."""

    id: str = ""
    name: str = ""
    image: str = ""
    image_id: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


class CallSpec(Section, frozen=True):
    """One document. ``request`` and ``response`` are in protobuf's JSON mapping."""

    method: str
    api_version: str = "v1"
    request: dict[str, Any] = field(default_factory=dict)
    response: dict[str, Any] | list[dict[str, Any]] | None = None
    """For a server stream a list of messages. None: no response is simulated."""
    pod: PodSpec | None = None
    container: ContainerSpec | None = None
    images: dict[str, list[str]] = field(default_factory=dict)
    """Names of the runtime's images by id."""
    caller: CallerSpec = CallerSpec()
    listener: str = str(DEFAULT_ENDPOINT)
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CallFileEntry:
    """A call that rules are evaluated for: method, facts and the runtime's responses."""

    method: Method
    facts: Facts
    responses: tuple[Message, ...]


def read_calls(path: Path, short_names: str) -> list[CallFileEntry]:
    """Read a file of calls; ``-`` is stdin. Raises ConfigError.

    ``short_names`` is how the runtime reads short names of images, see
    :mod:`criproxy.rules.image_names`.
    """
    text = sys.stdin.read() if str(path) == "-" else read_text(path)
    name = "<stdin>" if str(path) == "-" else str(path)
    documents = [each for each in parse_all(text, name) if each.value is not None]
    if not documents:
        raise ConfigError(f"{name}: has no call; write one like method: Version")
    return [_call(each, short_names) for each in documents]


def _call(document: Document, short_names: str) -> CallFileEntry:
    spec = document.convert(CallSpec)
    method = _method(document, spec)
    request = _message(document, ("request",), request_class(method), spec.request)
    named = resolve(method.path.encode())
    caller = spec.caller.peer()
    pod_cache = PodCache(short_names)
    images = [v1.Image(id=id_, repo_tags=names) for id_, names in spec.images.items()]
    pod_cache.add_listing(images=v1.ListImagesResponse(images=images).SerializeToString())
    pod, container = pod_cache.find(named, request, caller.kubelet)
    if spec.container is not None:
        container = Container(**_fields(spec.container))
    facts = Facts(
        method_name=named,
        listener=spec.listener,
        caller=caller,
        metadata=spec.metadata,
        request=request,
        pod=pod if spec.pod is None else Pod(**_fields(spec.pod)),
        container=container,
        image=pod_cache.image(request, container, caller.kubelet),
        short_names=short_names,
    )
    return CallFileEntry(method, facts, _responses(document, method, spec))


def _method(document: Document, spec: CallSpec) -> Method:
    """Find a method by its short name, ``Service/Method``, or its path."""
    found = [
        method
        for method in METHODS.values()
        if matches(spec.method, resolve(method.path.encode()))
        and (method.api_version == spec.api_version or spec.method.startswith(("/", "runtime.")))
    ]
    if len(found) == 1:
        return found[0]
    what = f"{spec.method!r} is no method of the CRI's {spec.api_version}"
    raise document.error(("method",), what + "; write it like PullImage")


def _responses(document: Document, method: Method, spec: CallSpec) -> tuple[Message, ...]:
    kind = response_class(method)
    if spec.response is None:
        return ()
    if isinstance(spec.response, dict):
        return (_message(document, ("response",), kind, spec.response),)
    if not method.server_streaming:
        raise document.error(("response",), f"{method.name} has one response, not a list of them")
    return tuple(
        _message(document, ("response", index), kind, each)
        for index, each in enumerate(spec.response)
    )


def _message(
    document: Document, keys: tuple[str | int, ...], kind: type[Message], value: dict[str, Any]
) -> Message:
    try:
        return ParseDict(value, kind())
    except ParseError as error:
        raise document.error(keys, " ".join(str(error).split())) from error


def _fields(section: Section) -> dict[str, Any]:
    return {name: getattr(section, name) for name in section.__struct_fields__}
