"""Rules in a running daemon: their effects, their pod cache, and their logs and metrics."""

import contextlib
import json
import socket
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml

from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from tests.support.criproxy import Criproxy
from tests.support.grpc_peers import code_of
from tests.support.http_server import Handler, HttpServer, Response
from tests.support.raw_sockets import dial, receive_all
from tests.support.rules import HELD_BY_A_FILE
from tests.support.waiting import LIMIT_SECONDS, wait_until

MATCHES = "criproxy_rule_matches_total"


def rule(name: str, method: str, where: str | None = None, **action: Any) -> dict[str, Any]:
    match = {"methods": [method]} | ({"where": where} if where else {})
    return {"name": name, "match": match} | (action or {"deny": {"message": name}})


def ruled(directory: Path, runtime: str, *rules: dict[str, Any], **more: Any) -> Criproxy:
    return Criproxy(directory, runtime, config={"rules": [*rules]} | more)


def test_counted_and_listed(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """What rules did is in /rules and in the metrics, with zeros for those that did nothing."""
    rules = (
        rule("idle", "StopContainer"),
        rule("wrong", "Version", 'metadata["absent"] == ""', delay={"fixed": "1ms"}),
        rule("busy", "Status"),
    )
    with (
        ruled(short_dir, runtime.endpoint, *rules) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        assert code_of(client.Status) == "PERMISSION_DENIED"
        assert code_of(client.Status) == "PERMISSION_DENIED"
        assert client.Version().runtime_name
        idle, wrong, busy = json.loads(proxy.get("/rules")[1])["rules"]
        assert idle == {
            "name": "idle",
            "action": "deny",
            "mode": "enforce",
            "methods": ["StopContainer"],
            "matches": 0,
            "errors": 0,
            "last_match": None,
        }
        assert (wrong["matches"], wrong["errors"], wrong["last_match"]) == (0, 1, None)
        assert (busy["matches"], busy["errors"]) == (2, 0)
        assert busy["last_match"].endswith("+00:00")
        samples = [one for one in proxy.metrics() if one.name == MATCHES]
        assert {one.labels["rule"]: one.value for one in samples} == {
            "idle": 0,
            "wrong": 0,
            "busy": 2,
        }
        assert proxy.metric("criproxy_rule_errors_total", rule="wrong", reason="cel") == 1
        assert proxy.event("call", method="Status")["rules"] == ["busy"]


def test_dry_run_of_all(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """Under ``rules_mode: dry-run`` no rule acts; what each would do is logged and counted."""
    rules = ruled(short_dir, runtime.endpoint, rule("a", "Status"), rules_mode="dry-run")
    with rules as proxy, CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client:
        assert code_of(client.Status) == "OK"
        assert proxy.event("dry-run")["would"] == "answer PERMISSION_DENIED: a"
        assert proxy.metric(MATCHES, rule="a", mode="dry-run") == 1


@pytest.mark.parametrize("version", ["v1", "v1alpha2"])
def test_pods_of_before(runtime: EmbeddedRuntime, short_dir: Path, version: str) -> None:
    """Containers that were there before the proxy are known by their pods."""
    with CriClient(runtime.endpoint, api_version=version, timeout=LIMIT_SECONDS) as direct:
        one, other = direct.ListContainers().containers
        pods = {pod.id: pod for pod in direct.ListPodSandbox().items}
        name = pods[one.pod_sandbox_id].metadata.name
        assert name != pods[other.pod_sandbox_id].metadata.name
    rules = ruled(
        short_dir, runtime.endpoint, rule("a", "ContainerStatus", f'pod.name == "{name}"')
    )
    with (
        rules as proxy,
        CriClient(proxy.endpoint, api_version=version, timeout=LIMIT_SECONDS) as client,
    ):
        proxy.event("pods listed", runtime=runtime.endpoint)
        assert code_of(lambda: client.ContainerStatus(container_id=one.id)) == "PERMISSION_DENIED"
        assert code_of(lambda: client.ContainerStatus(container_id=other.id)) == "OK"


def test_runtime_that_comes_late(short_dir: Path) -> None:
    """Pods are asked for until the runtime is there; the log says once that they are not known."""
    endpoint = f"unix://{short_dir}/cri.sock"
    with ruled(short_dir, endpoint, rule("a", "ExecSync", 'pod.name == "x"')) as proxy:
        told = proxy.event("not listed yet", what="pods")
        assert told["error"].endswith("No such file or directory")
        with EmbeddedRuntime(endpoint, pods=1):
            proxy.event("pods listed")
        assert len(proxy.events("not listed yet", what="pods")) == 1


def test_pods_are_asked_for_where_rules_need_them(
    runtime: EmbeddedRuntime, short_dir: Path
) -> None:
    """The runtime's pods are listed once rules need them, also after a reload."""
    with ruled(short_dir, runtime.endpoint, rule("a", "ExecSync")) as proxy:
        file = short_dir / "proxy.yaml"
        assert proxy.events("pods listed") == []
        content = yaml.safe_load(file.read_text())
        content["rules"] = [rule("a", "ExecSync", 'pod.name == "x"')]
        file.write_text(yaml.safe_dump(content))
        proxy.event("pods listed")
        assert proxy.events("rules loaded")


def test_calls_end_under_their_rules(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """A call that is held during a reload ends as its rules have it; the next has the new ones."""
    (short_dir / "hold.py").write_text(HELD_BY_A_FILE)
    late = rule("late", "Version", hook={"script": "hold.py", "timeout": "120s"})
    with (
        ruled(short_dir, runtime.endpoint, late) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        answer = client.raw("Version").future(client.messages.VersionRequest())
        wait_until(lambda: proxy.metric("criproxy_held_streams") == 1, "held call")
        file = short_dir / "proxy.yaml"
        content = yaml.safe_load(file.read_text()) | {"rules": [rule("new", "Version")]}
        file.write_text(yaml.safe_dump(content))
        proxy.event("rules loaded")
        assert code_of(client.Version) == "PERMISSION_DENIED"
        assert not answer.done()
        (short_dir / "gate").touch()
        assert answer.result().runtime_name
        wait_until(lambda: proxy.metric("criproxy_held_streams") == 0, "nothing held")
        assert proxy.metric("criproxy_held_bytes") == 0


def test_events_that_are_dropped_and_renamed(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """Events of one type are dropped; the others arrive, with the client's names of images.

    A client of the runtime itself receives all of them, with its names.
    """
    stopped = "response.container_event_type == ContainerEventType.CONTAINER_STOPPED_EVENT"
    mirror = {"from": "docker.io/*", "to": "mirror.local/*"}
    rename = rule("rename", "*Container*", rewrite_images=[mirror]) | {"continue": True}
    rules = (rename, rule("lose", "GetContainerEvents", fault={"drop": stopped}))
    with ExitStack() as stack:
        proxy = stack.enter_context(ruled(short_dir, runtime.endpoint, *rules))
        client = stack.enter_context(CriClient(proxy.endpoint, timeout=LIMIT_SECONDS))
        direct = stack.enter_context(CriClient(runtime.endpoint, timeout=LIMIT_SECONDS))
        streams = [one.GetContainerEvents(deadline=60.0) for one in (client, direct)]
        assert all(stream.initial_metadata() is not None for stream in streams)
        direct.PullImage(image={"image": "mirror.local/library/web:1"})
        pod = client.RunPodSandbox(config={"metadata": {"name": "web"}}).pod_sandbox_id
        config = {"metadata": {"name": "main"}, "image": {"image": "docker.io/library/web:1"}}
        container = client.CreateContainer(pod_sandbox_id=pod, config=config).container_id
        client.StartContainer(container_id=container)
        client.StopContainer(container_id=container, timeout=1)
        client.RemovePodSandbox(pod_sandbox_id=pod)
        sent = [*islice(streams[1], 8)]
        lost = client.messages.CONTAINER_STOPPED_EVENT
        kept = [event for event in sent if event.container_event_type != lost]
        assert len(kept) == 6
        assert "mirror.local/library/web" in str(kept)
        got = [*islice(streams[0], len(kept))]
        assert str(got) == str(kept).replace("mirror.local", "docker.io")
        for stream in streams:
            stream.cancel()


def test_limits_of_what_is_held(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """A request over ``limits.held_stream`` is not held: what becomes of it says ``on_error``."""
    limits = {"held_stream": 1000}
    where = 'request.image.image == "x"'
    rules = ruled(short_dir, runtime.endpoint, rule("a", "PullImage", where), limits=limits)
    with rules as proxy, CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client:
        image = client.messages.ImageSpec(image="y")
        assert code_of(lambda: client.PullImage(image=image)) == "OK"
        image = client.messages.ImageSpec(image="y" * 2000)
        assert code_of(lambda: client.PullImage(image=image)) not in ("OK", "NOT_FOUND")
        assert proxy.metric("criproxy_rule_errors_total", rule="a", reason="held_limit") == 1


def test_connection_that_cannot_be_read(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """Where a rule must not be missed, a connection that cannot be read is closed and logged."""
    with ruled(short_dir, runtime.endpoint, rule("a", "Version")) as proxy:
        with dial(proxy.path) as client:
            with contextlib.suppress(OSError):
                client.sendall(b"SETUP / RTSP/2.0\r\n\r\n")
                client.shutdown(socket.SHUT_WR)
            receive_all(client)
        told = proxy.event("connection closed: cannot be read, and a rule must not be missed")
        assert told["reason"] == "not_http2"


def test_script_in_its_new_version(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """Calls are shown to a script as it was when the rules were last loaded."""
    script = short_dir / "hook.py"
    text = "from criproxy.hook import Deny\ndef request(call): raise Deny('{}', 'no')\n"
    script.write_text(text.format("ABORTED"))
    hook = rule("a", "Status", hook={"script": "hook.py", "timeout": "20s"})
    with (
        ruled(short_dir, runtime.endpoint, hook) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        assert code_of(client.Status) == "ABORTED"
        script.write_text(text.format("DATA_LOSS"))
        proxy.event("rules loaded")
        assert code_of(client.Status) == "DATA_LOSS"


def test_webhook_that_serves(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """A webhook is asked, and the daemon ends well with a connection to it open."""

    def answer(_: Handler, body: bytes) -> Response:
        request = json.loads(body)["request"]
        status = {"code": "ABORTED", "message": request["method"]}
        response = {"uid": request["uid"], "allowed": False, "status": status}
        return Response(json.dumps({"response": response}).encode())

    with HttpServer(answer) as server:
        url = f"{server.url}/review"
        hook = rule("a", "Status", hook={"url": url, "timeout": "20s", "may_deny": True})
        with ruled(short_dir, runtime.endpoint, hook) as proxy:
            with CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client:
                assert code_of(client.Status) == "ABORTED"
            assert proxy.stop() == 0
            assert "Traceback" not in proxy.process.stderr
            assert proxy.events("call", method="Status", message="Status")
