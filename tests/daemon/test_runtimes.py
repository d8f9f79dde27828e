"""Runtimes that are absent, come back, or are several."""

import contextlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from tests.support.criproxy import Criproxy
from tests.support.process import Process
from tests.support.raw_sockets import dial, receive_all
from tests.support.waiting import LIMIT_SECONDS, wait_until


def test_absent_runtime_holds_clients_for_a_while(short_dir: Path) -> None:
    """Without its runtime it listens, is not ready, and closes a client after the wait."""
    missing = f"unix://{short_dir}/cri.sock"
    with Criproxy(short_dir, missing, config={"limits": {"runtime_wait": "200ms"}}) as proxy:
        status, body = proxy.get("/readyz")
        assert (status, missing in body) == (503, True)
        assert proxy.get("/healthz") == (200, "ok\n")
        assert proxy.metric("criproxy_runtime_up") == 0
        with dial(proxy.path) as client:
            assert receive_all(client) == b""
        told = proxy.event("client closed: runtime not there")
        assert (told["runtime"], told["error"]) == (missing, "No such file or directory")


def test_held_client_is_served_when_the_runtime_comes(short_dir: Path) -> None:
    """A client that waits for the runtime is connected to it once it listens."""
    missing = f"unix://{short_dir}/cri.sock"
    with (
        Criproxy(short_dir, missing) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        answer = client.raw("Version").future(client.messages.VersionRequest())
        wait_until(lambda: proxy.metric("criproxy_connections") == 1, "held client")
        with EmbeddedRuntime(missing):
            assert answer.result().runtime_name
            assert wait_until(lambda: proxy.get("/readyz") == (200, "ok\n"), "readiness")


def test_restarted_runtime_is_found_again(runtime: EmbeddedRuntime, proxy: Criproxy) -> None:
    """A call that the runtime's end breaks fails; the next one goes to the new runtime."""
    with CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client:
        events = client.GetContainerEvents()
        wait_until(lambda: "GetContainerEvents" in proxy.get("/calls")[1], "events in flight")
        runtime.stop()
        with pytest.raises(grpc.RpcError) as error:
            next(events)
        assert wait_until(lambda: proxy.get("/readyz")[0] == 503, "loss of readiness")
        runtime.start()
        assert client.Version().runtime_name
    broken = proxy.event("call", method="GetContainerEvents")
    assert broken["code"] == error.value.code().name
    assert proxy.event("call", method="Version")["code"] == "OK"


def test_each_listener_has_its_runtime(short_dir: Path) -> None:
    """Two listeners lead to two runtimes, and what is seen names the listener."""
    with contextlib.ExitStack() as stack:
        listeners = []
        for name in ("a", "b"):
            stack.enter_context(EmbeddedRuntime(f"unix://{short_dir}/{name}-cri.sock"))
            endpoint = f"unix://{short_dir}/{name}.sock"
            listeners.append(
                {"endpoint": endpoint, "runtime": f"unix://{short_dir}/{name}-cri.sock"}
            )
        proxy = stack.enter_context(Criproxy(short_dir, config={"listeners": listeners}))
        first, second = (
            stack.enter_context(CriClient(listener["endpoint"], timeout=LIMIT_SECONDS))
            for listener in listeners
        )
        first.PullImage(image={"image": "example.test/only-a:1"})
        assert second.ImageStatus(image={"image": "example.test/only-a:1"}).image.id == ""
        pulls = proxy.event("call", method="PullImage")
        assert pulls["listener"] == listeners[0]["endpoint"]
        wait_until(lambda: proxy.counted().total() == 2, "two calls counted")
        for listener in listeners:
            assert proxy.metric("criproxy_calls_total", listener=listener["endpoint"]) == 1


def test_image_calls_go_to_the_image_endpoint(short_dir: Path) -> None:
    """With an image endpoint one connection serves both: images there, the rest at the runtime."""
    runtime, image = f"unix://{short_dir}/cri.sock", f"unix://{short_dir}/image.sock"
    listener = {"endpoint": f"unix://{short_dir}/proxy.sock", "runtime": runtime, "image": image}
    with (
        EmbeddedRuntime(runtime, pods=3),
        EmbeddedRuntime(image),
        Criproxy(short_dir, config={"listeners": [listener]}) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
        CriClient(image, timeout=LIMIT_SECONDS) as image_client,
    ):
        client.PullImage(image={"image": "example.test/app:1"})
        assert len(client.ListPodSandbox().items) == 3
        assert image_client.ImageStatus(image={"image": "example.test/app:1"}).image.id
        assert client.ListImages() == image_client.ListImages()
        with pytest.raises(grpc.RpcError) as error:
            client.PodSandboxStatus(pod_sandbox_id="unknown")
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        wait_until(lambda: proxy.counted().total() == 4, "four calls counted")
        assert proxy.counted() == {
            ("runtime.v1.ImageService", "PullImage", "OK"): 1,
            ("runtime.v1.ImageService", "ListImages", "OK"): 1,
            ("runtime.v1.RuntimeService", "ListPodSandbox", "OK"): 1,
            ("runtime.v1.RuntimeService", "PodSandboxStatus", "NOT_FOUND"): 1,
        }


def test_shielded_reads(short_dir: Path) -> None:
    """With `shield: reads` a stream of events outlives a runtime that is killed."""
    runtime = f"unix://{short_dir}/cri.sock"
    listener = {
        "endpoint": f"unix://{short_dir}/proxy.sock",
        "runtime": runtime,
        "shield": "reads",
    }
    with (
        Criproxy(short_dir, config={"listeners": [listener]}) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        command = [sys.executable, "-m", "criproxy", "runtime", "--listen", runtime]
        with Process(command, output=short_dir / "runtime") as killed:
            assert client.Version().runtime_name
            events = client.GetContainerEvents()
            wait_until(lambda: "GetContainerEvents" in proxy.get("/calls")[1], "events in flight")
            killed.kill()
        with EmbeddedRuntime(runtime), ThreadPoolExecutor(1) as thread:
            event = thread.submit(next, events)
            pods: list[str] = []

            def comes() -> bool:
                metadata = {"name": f"web-{len(pods)}", "namespace": "default", "uid": "1"}
                try:
                    pods.append(client.RunPodSandbox(config={"metadata": metadata}).pod_sandbox_id)
                except grpc.RpcError as error:  # it was sent before the end of the first was seen
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                return event.done()

            wait_until(comes, "event of a pod")
            assert event.result().pod_sandbox_status.id in pods


def test_runtime_that_leads_to_criproxy(short_dir: Path) -> None:
    """A runtime's path that is a link to criproxy's socket is refused, and not dialled."""
    runtime = short_dir / "cri.sock"
    with Criproxy(short_dir, f"unix://{runtime}") as proxy:
        runtime.symlink_to(proxy.path)
        with dial(proxy.path) as client:
            assert receive_all(client) == b""
        told = proxy.event("client closed: runtime not there")
        assert str(proxy.path) in told["error"]


def test_image_service_without_a_runtime_service(short_dir: Path, runtime: EmbeddedRuntime) -> None:
    """An image service that is another process is ready without a Version of its own; the reason
    why it is not names it."""
    images = short_dir / "images.sock"
    config = {
        "listeners": [
            {
                "endpoint": f"unix://{short_dir}/proxy.sock",
                "runtime": runtime.endpoint,
                "image": f"unix://{images}",
            }
        ]
    }
    with Criproxy(short_dir, config=config) as proxy, ThreadPoolExecutor(1) as workers:
        status, body = proxy.get("/readyz")
        assert (status, body.strip()) == (
            503,
            f"image service unix://{images}: No such file or directory",
        )
        server = grpc.server(workers)
        methods = {"ImageFsInfo": grpc.unary_unary_rpc_method_handler(lambda request, _: b"")}
        handler = grpc.method_handlers_generic_handler("runtime.v1.ImageService", methods)
        server.add_generic_rpc_handlers((handler,))
        server.add_insecure_port(f"unix://{images}")
        server.start()
        try:
            assert wait_until(lambda: proxy.get("/readyz") == (200, "ok\n"), "readiness")
        finally:
            server.stop(None).wait()
