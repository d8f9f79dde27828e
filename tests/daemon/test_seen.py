"""The output of a running daemon: pages, log lines, warnings."""

import json
import os
import socket
import threading
from pathlib import Path

import grpc
import pytest

from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from tests.support.criproxy import Criproxy
from tests.support.raw_sockets import accept, dial, listening, receive
from tests.support.waiting import LIMIT_SECONDS, wait_until

EVENTS = "GetContainerEvents"


def test_pages(proxy: Criproxy) -> None:
    """/healthz and /readyz say ok, /calls has none, and an unknown page says what there is."""
    assert proxy.get("/healthz") == (200, "ok\n")
    assert proxy.get("/readyz") == (200, "ok\n")
    assert json.loads(proxy.get("/calls")[1]) == {"calls": []}
    assert proxy.get("/nothing") == (404, "there is: /metrics /healthz /readyz /calls /rules\n")
    assert proxy.metric("criproxy_build_info") == 1
    assert proxy.metric("process_open_fds") > 0


def test_calls_in_flight_are_shown(proxy: Criproxy) -> None:
    """/calls names what is in flight, its caller and its age; the gauges count it until it ends."""
    with CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client:
        events = client.GetContainerEvents()
        wait_until(lambda: proxy.metric("criproxy_calls_in_flight", method=EVENTS) == 1, "event")
        (call,) = json.loads(proxy.get("/calls")[1])["calls"]
        assert call["listener"] == proxy.endpoint
        assert (call["service"], call["method"]) == ("runtime.v1.RuntimeService", EVENTS)
        assert (call["pid"], call["uid"], call["gid"]) == (os.getpid(), os.getuid(), os.getgid())
        assert call["age_s"] > 0
        assert proxy.metric("criproxy_oldest_call_age_seconds", method=EVENTS) > 0
        assert proxy.metric("criproxy_connections", listener=proxy.endpoint) == 1
        events.cancel()
        wait_until(lambda: json.loads(proxy.get("/calls")[1])["calls"] == [], "end of the call")
    assert proxy.event("call", method=EVENTS)["code"] == "CANCELLED"
    assert proxy.metric("criproxy_calls_in_flight", method=EVENTS) == 0


def test_slow_call_is_warned_of_once_and_told_of_at_its_end(
    runtime: EmbeddedRuntime, short_dir: Path
) -> None:
    """A call past its threshold is a warning while it runs, and one more when it ends."""
    config = {"slow": {"methods": {EVENTS: "50ms"}}}
    with (
        Criproxy(short_dir, runtime.endpoint, config=config) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        events = client.GetContainerEvents()
        warning = proxy.event("slow call", method=EVENTS)
        assert (warning["level"], warning["pid"]) == ("warning", os.getpid())
        events.cancel()
        ended = proxy.event("call", method=EVENTS)
        assert (ended["level"], ended["slow"]) == ("warning", True)
        assert ended["duration_s"] >= warning["age_s"] >= 0.05
        assert len(proxy.events("slow call")) == 1


def test_secrets_in_status_messages(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """The call log quotes neither a signed URL nor the credentials that a pull carried."""
    message = "h?X-Amz-Signature=ab: no bWU6aHVudGVyMjI="
    fault = {"code": "UNKNOWN", "message": message}
    rule = {"name": "x", "match": {"methods": ["PullImage"]}, "fault": fault}
    request = {
        "image": {"image": "example.test/app:1"},
        "auth": {"username": "me", "password": "hunter22"},
    }
    with (
        Criproxy(short_dir, runtime.endpoint, config={"rules": [rule]}) as proxy,
        CriClient(proxy.endpoint) as client,
    ):
        with pytest.raises(grpc.RpcError) as caught:
            client.PullImage(**request)
        assert caught.value.details() == message
        logged = proxy.event("call", method="PullImage")["message"]
    assert logged == "h?X-Amz-Signature=[redacted: 3 bytes] no [redacted: 16 bytes]"


def test_quiet_by_default(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """At level info the log has calls that change something or fail, and no others."""
    config = {"log": {"level": "info", "methods": {"ImageFsInfo": "info", "RemoveImage": "off"}}}
    with Criproxy(short_dir, runtime.endpoint, config=config) as proxy:
        with CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client:
            client.Version()
            client.ImageFsInfo()
            client.PullImage(image={"image": "example.test/app:1"})
            client.RemoveImage(image={"image": "example.test/app:1"})
            with pytest.raises(grpc.RpcError):
                client.ContainerStatus(container_id="unknown")
        assert proxy.stop() == 0
    assert [call["method"] for call in proxy.calls()] == [
        "ImageFsInfo",
        "PullImage",
        "ContainerStatus",
    ]


def test_unknown_methods_share_a_label(proxy: Criproxy) -> None:
    """Methods that the CRI does not have count under other; the log has their names."""
    options = [("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(proxy.endpoint, options) as channel:
        for number in range(3):
            call = channel.unary_unary(f"/made.Up/Method{number}", bytes, bytes)
            assert call.future(b"").code() is grpc.StatusCode.UNIMPLEMENTED
    wait_until(lambda: proxy.counted().total() == 3, "three calls counted")
    assert proxy.counted() == {("other", "other", "UNIMPLEMENTED"): 3}
    assert proxy.stop() == 0
    assert [call["method"] for call in proxy.calls()] == ["Method0", "Method1", "Method2"]


def test_garbage_is_relayed_unchanged(short_dir: Path) -> None:
    """What is not HTTP/2 passes both ways as it is, is counted, and is warned of once."""
    path = short_dir / "any.sock"
    garbage = os.urandom(1 << 20)
    with (
        listening(path) as server,
        Criproxy(short_dir, f"unix://{path}") as proxy,
        dial(proxy.path) as client,
    ):
        opening = b"\x16\x03\x01\x02\x00\x01\x00"
        client.sendall(opening)
        with _accept_with(server, opening) as upstream:
            for sender, receiver in ((client, upstream), (upstream, client)) * 2:
                threading.Thread(target=sender.sendall, args=(garbage,)).start()
                assert receive(receiver, len(garbage)) == garbage
            unread = "criproxy_unread_connections_total"
            assert proxy.metric(unread) == proxy.metric(unread, reason="not_http2") == 1
            proxy.event("connection not read any further", reason="not_http2")
        assert proxy.stop() == 0
    assert len(proxy.events("connection not read any further")) == 1


def _accept_with(server: socket.socket, opening: bytes) -> socket.socket:
    """The connection that begins with ``opening``; the daemon's own probes are turned away."""
    while True:
        client = accept(server)
        if receive(client, len(opening)) == opening:
            return client
        client.close()
