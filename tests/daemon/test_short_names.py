"""Short names of images in rules and audit records, as the runtime behind the socket reads them."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import grpc
import pytest

from criproxy.client import CriClient
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.embedded.background import EmbeddedRuntime
from tests.support.criproxy import Criproxy
from tests.support.waiting import LIMIT_SECONDS, wait_until

IMAGE_ID = "sha256:" + "ab" * 32
MIRROR = {
    "name": "mirror",
    "match": {"methods": ["*Image*", "*Container*"]},
    "rewrite_images": [{"from": "docker.io/*", "to": "mirror.local/*"}],
}
HUB = {
    "name": "no-hub",
    "match": {"methods": ["PullImage"], "where": 'image.registry == "docker.io"'},
    "deny": {},
}


class NamedRuntime:
    """A server of PullImage and Version alone. ``name`` None: Version fails as while starting."""

    def __init__(self, path: Path, name: str | None, version: str = "v1") -> None:
        self.endpoint = f"unix://{path}"
        self.name = name
        self.pulled: list[str] = []
        self._server = grpc.server(ThreadPoolExecutor(4))
        methods = {"RuntimeService": {"Version": self._version}}
        methods["ImageService"] = {"PullImage": self._pull, "ListImages": lambda *_: b""}
        for service, each in methods.items():
            handlers = {
                method: grpc.unary_unary_rpc_method_handler(function)
                for method, function in each.items()
            }
            name_ = f"runtime.{version}.{service}"
            handler = grpc.method_handlers_generic_handler(name_, handlers)
            self._server.add_generic_rpc_handlers((handler,))
        self._server.add_insecure_port(self.endpoint)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    def _version(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        if self.name is None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "starting")
        return v1.VersionResponse(runtime_name=self.name).SerializeToString()

    def _pull(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.pulled.append(v1.PullImageRequest.FromString(request).image.image)
        return v1.PullImageResponse(image_ref=IMAGE_ID).SerializeToString()


@pytest.fixture
def path(short_dir: Path) -> Path:
    return short_dir / "cri.sock"


def pull(proxy: Criproxy, image: str, version: str = "v1") -> str:
    """Pull an image and return the code."""
    with CriClient(proxy.endpoint, version, timeout=LIMIT_SECONDS) as client:
        try:
            client.PullImage(image={"image": image})
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


@pytest.mark.parametrize("version", ["v1", "v1alpha2"])
@pytest.mark.parametrize(
    ("name", "setting", "hub"),
    [
        ("containerd", "auto", True),
        ("docker", "auto", True),
        ("cri-o", "auto", False),
        ("", "auto", False),
        ("cri-o", "docker.io", True),
        ("containerd", "as-written", False),
    ],
)
def test_first_call(
    path: Path, short_dir: Path, version: str, name: str, setting: str, hub: bool
) -> None:
    """From the first call on rules read short names as the runtime does, or as configured."""
    config = {"rules": [MIRROR | {"continue": True}], "images": {"short_names": setting}}
    with (
        NamedRuntime(path, name, version) as runtime,
        Criproxy(short_dir, runtime.endpoint, config=config) as proxy,
    ):
        for image in ("nginx:1", "docker.io/a/b:1", "localhost/x:1"):
            assert pull(proxy, image, version) == "OK"
        short = "mirror.local/library/nginx:1" if hub else "nginx:1"
        assert runtime.pulled == [short, "mirror.local/a/b:1", "localhost/x:1"]
        assert proxy.metric("criproxy_rule_errors_total") == 0


@pytest.mark.parametrize(("name", "code"), [("containerd", "PERMISSION_DENIED"), ("cri-o", "OK")])
def test_split(path: Path, short_dir: Path, name: str, code: str) -> None:
    """Where another process serves images, its name counts and not the runtime's."""
    other = "cri-o" if name == "containerd" else "containerd"
    with (
        NamedRuntime(short_dir / "runtime.sock", other) as runtime,
        NamedRuntime(path, name) as images,
    ):
        proxy = Criproxy(short_dir, runtime.endpoint)
        listener = {
            "endpoint": proxy.endpoint,
            "runtime": runtime.endpoint,
            "image": images.endpoint,
        }
        config = {"listeners": [listener], "rules": [HUB]}
        with Criproxy(short_dir, runtime.endpoint, config=config) as proxy:
            assert pull(proxy, "nginx") == code


def test_unknown_runtime(path: Path, short_dir: Path) -> None:
    """Until the runtime has given its name, a short name is neither denied nor let through
    unnoticed: the rule fails, and on_error decides; a full name is judged."""
    with (
        NamedRuntime(path, None) as runtime,
        Criproxy(short_dir, runtime.endpoint, config={"rules": [HUB]}) as proxy,
    ):
        assert pull(proxy, "nginx") == "INTERNAL"
        assert pull(proxy, "docker.io/x") == "PERMISSION_DENIED"
        assert pull(proxy, "quay.io/x") == "OK"
        assert proxy.event("rule failed")["reason"] == "unknown_runtime"
        errors = proxy.metric("criproxy_rule_errors_total", reason="unknown_runtime")
        assert errors == 1
        runtime.name = "cri-o"
        assert proxy.event("short names of images")["short_names"] == "as-written"
        assert pull(proxy, "nginx") == "OK"


def test_replaced_runtime(path: Path, short_dir: Path) -> None:
    """When another runtime answers behind the socket, short names are read as it reads them."""
    config = {"rules": [HUB], "probe": {"interval": "100ms"}}
    with NamedRuntime(path, "containerd") as runtime:
        proxy = Criproxy(short_dir, runtime.endpoint, config=config)
        proxy.start()
        assert pull(proxy, "nginx") == "PERMISSION_DENIED"
    try:
        with NamedRuntime(path, "cri-o"):
            proxy.event("short names of images", runtime_name="cri-o")
            assert pull(proxy, "nginx") == "OK"
        with NamedRuntime(path, "docker"):
            proxy.event("short names of images", runtime_name="docker")
            assert pull(proxy, "nginx") == "PERMISSION_DENIED"
    finally:
        proxy.kill()


def test_reload(path: Path, short_dir: Path) -> None:
    """The first rules that come with a reload read short names as the runtime does."""
    with (
        NamedRuntime(path, "cri-o") as runtime,
        Criproxy(short_dir, runtime.endpoint) as proxy,
    ):
        assert proxy.events("short names of images") == []
        proxy.reload(rules=[HUB])
        proxy.event("rules loaded")
        assert pull(proxy, "nginx") == "OK"
        assert pull(proxy, "docker.io/nginx") == "PERMISSION_DENIED"


def test_runtimes_that_differ(path: Path, short_dir: Path) -> None:
    """Short names of listeners with different runtimes in one worker are passed on as written."""
    with (
        NamedRuntime(path, "containerd") as one,
        NamedRuntime(short_dir / "other.sock", "cri-o") as other,
    ):
        proxy = Criproxy(short_dir, one.endpoint)
        listeners = [
            {"endpoint": proxy.endpoint, "runtime": one.endpoint},
            {"endpoint": f"unix://{short_dir}/second.sock", "runtime": other.endpoint},
        ]
        config = {"listeners": listeners, "rules": [HUB]}
        with Criproxy(short_dir, config=config) as proxy:
            wait_until(lambda: len(proxy.events("short names of images")) == 2, "two answers")
            assert pull(proxy, "nginx") == "OK"


@pytest.mark.parametrize(
    ("name", "image"), [("containerd", "docker.io/library/nginx:1"), ("cri-o", "nginx:1")]
)
def test_audit_records(path: Path, short_dir: Path, name: str, image: str) -> None:
    """A record at Metadata of a call with an id has the name that was pulled, as the runtime reads
    it."""
    file = short_dir / "audit.log"
    config: dict[str, Any] = {
        "audit": {"sinks": [{"file": {"path": str(file)}}], "policy": [{"level": "Metadata"}]}
    }
    with (
        NamedRuntime(path, name) as runtime,
        Criproxy(short_dir, runtime.endpoint, config=config) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        client.PullImage(image={"image": "nginx:1"})
        with pytest.raises(grpc.RpcError):
            client.RemoveImage(image={"image": IMAGE_ID})
        assert proxy.stop() == 0
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(each["method"], each["image"]) for each in records] == [
        ("PullImage", "nginx:1"),
        ("RemoveImage", image),
    ]
    assert "requestObject" not in records[0]


@pytest.fixture
def images(short_dir: Path) -> Iterator[EmbeddedRuntime]:
    with EmbeddedRuntime(f"unix://{short_dir}/images.sock") as images:
        yield images


def test_images_of_a_split_listener(path: Path, images: EmbeddedRuntime, short_dir: Path) -> None:
    """The names of images are known from the process that serves images."""
    with CriClient(images.endpoint, timeout=LIMIT_SECONDS) as direct:
        image = next(each for each in direct.ListImages().images if "nginx" in str(each.repo_tags))
    with EmbeddedRuntime(f"unix://{path}") as runtime:
        proxy = Criproxy(short_dir, runtime.endpoint)
        listener = {
            "endpoint": proxy.endpoint,
            "runtime": runtime.endpoint,
            "image": images.endpoint,
        }
        rule = HUB | {"match": HUB["match"] | {"methods": ["RemoveImage"]}}  # type: ignore[operator]
        config = {"listeners": [listener], "rules": [rule]}
        with (
            Criproxy(short_dir, config=config) as proxy,
            CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
        ):
            proxy.event("pods listed")
            with pytest.raises(grpc.RpcError) as raised:
                client.RemoveImage(image={"image": image.id})
            assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED
