"""Restricted listeners in a running daemon: the calls that they allow, and their logs."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from tests.support.criproxy import Criproxy
from tests.support.raw_sockets import accept, dial, listening, receive, receive_all
from tests.support.waiting import LIMIT_SECONDS, wait_until

DENIED = "criproxy_denied_total"
NOTHING = [{"level": "None"}]
"""A policy under which no call is recorded for its own sake."""


def failure_of(call: Callable[[], Any]) -> tuple[str, str]:
    """The code and the message that a call ends with."""
    try:
        call()
    except grpc.RpcError as error:
        return str(error.code().name), str(error.details())
    return "OK", ""


@contextmanager
def scoped(
    directory: Path,
    runtime: EmbeddedRuntime,
    listener: dict[str, Any],
    policy: list[dict[str, Any]] = NOTHING,
    **config: Any,
) -> Iterator[tuple[Criproxy, str]]:
    """A proxy with a full listener and another, and an audit log; with the other's endpoint."""
    endpoint = f"unix://{directory}/scoped.sock"
    listeners = [
        {"endpoint": f"unix://{directory}/proxy.sock", "runtime": runtime.endpoint},
        {"endpoint": endpoint, "runtime": runtime.endpoint} | listener,
    ]
    sinks = [{"file": {"path": str(directory / "audit.jsonl")}}]
    audit = {"policy": policy, "sinks": sinks}
    content = {"listeners": listeners, "audit": audit, **config}
    with Criproxy(directory, config=content) as proxy:
        yield proxy, endpoint


def records(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "audit.jsonl").read_text().splitlines()]


def test_a_read_only_socket(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """What reads goes on, what changes is denied, counted, and in the log though the policy says
    None; the runtime knows nothing of it, and the other listener is as it was."""
    with (
        scoped(short_dir, runtime, {"profile": "read-only"}) as (proxy, endpoint),
        CriClient(endpoint, timeout=LIMIT_SECONDS) as client,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as full,
    ):
        container = client.ListContainers().containers[0].id
        assert client.Version().runtime_name
        code, message = failure_of(lambda: client.StopContainer(container_id=container))
        assert code == "PERMISSION_DENIED"
        assert message == "criproxy: profile read-only does not allow StopContainer"
        running = client.messages.CONTAINER_RUNNING
        assert client.ContainerStatus(container_id=container).status.state == running
        labels = {"listener": endpoint, "method": "StopContainer", "reason": "method"}
        assert proxy.metric(DENIED, **labels) == proxy.metric(DENIED) == 1
        full.StopContainer(container_id=container)
        assert client.ContainerStatus(container_id=container).status.state != running
        assert proxy.stop() == 0
    (record,) = records(short_dir)
    assert (record["method"], record["listener"]) == ("StopContainer", endpoint)
    assert (record["level"], record["denied"]) == ("Metadata", "method")
    assert record["code"] == "PERMISSION_DENIED"


def test_methods_nobody_knows(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """A method that is not of the CRI is denied, and counted under one name."""
    with (
        scoped(short_dir, runtime, {"profile": "read-only"}) as (proxy, endpoint),
        grpc.insecure_channel(endpoint) as channel,
    ):
        for path in ("/x.Y/Z", "/runtime.v1.RuntimeService/ListEverything"):
            call = channel.unary_unary(path, None, None)
            assert failure_of(lambda: call(b"", timeout=LIMIT_SECONDS))[0] == "UNIMPLEMENTED"  # noqa: B023
        assert proxy.metric(DENIED, method="other", reason="unknown_method") == 2
        assert proxy.stop() == 0
    assert [each["denied"] for each in records(short_dir)] == ["unknown_method"] * 2


@pytest.mark.parametrize(
    ("listener", "told"),
    [
        ({"profile": "read-only"}, "profile read-only allows calls of the CRI alone"),
        ({"profile": "images-only"}, "profile images-only allows calls of the CRI alone"),
        ({"allow": {"uid": [4711]}}, "this listener is not for callers with uid"),
        ({"allow": {"uid": [os.getuid()]}}, "serves calls of the CRI alone"),
    ],
)
def test_http1(short_dir: Path, listener: dict[str, Any], told: str) -> None:
    """Requests of HTTP/1.1 pass a full listener, with an audit log and rules that must be kept, and
    are answered with 403 at others; both are in the log and the metrics."""
    ask, answer = b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"
    path = short_dir / "crio.sock"
    rules = [{"name": "no", "match": {"methods": ["Version"]}, "deny": {"message": "no"}}]
    sinks = [{"file": {"path": str(short_dir / "audit.jsonl")}, "on_full": "block"}]
    listeners = [
        {"endpoint": f"unix://{short_dir}/proxy.sock", "runtime": f"unix://{path}"},
        {"endpoint": f"unix://{short_dir}/scoped.sock", "runtime": f"unix://{path}", **listener},
    ]
    audit = {"policy": NOTHING, "sinks": sinks}
    content = {"listeners": listeners, "audit": audit, "rules": rules}
    with listening(path) as crio, Criproxy(short_dir, config=content) as proxy:
        with dial(short_dir / "scoped.sock") as client:
            client.sendall(ask)
            head, _, body = receive_all(client).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert told in body.decode()
        assert told in proxy.event("HTTP/1 refused")["detail"]
        refused = "criproxy_refused_connections_total"
        scoped = f"unix://{short_dir}/scoped.sock"
        assert proxy.metric(refused, listener=scoped, reason="http1") == proxy.metric(refused) == 1
        with dial(short_dir / "proxy.sock") as client:
            client.sendall(ask)
            while receive((upstream := accept(crio)), len(ask)) != ask:
                upstream.close()  # the daemon's own probe
            with upstream:
                upstream.sendall(answer)
                assert receive(client, len(answer)) == answer
        proxy.event("connection not read any further", reason="http1", level="info")
        assert proxy.metric("criproxy_unread_connections_total", reason="http1") == 1
        assert proxy.stop() == 0


def test_callers_that_may_not_connect(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """All calls of a caller that the listener is not for are denied, with the reason."""
    with (
        scoped(short_dir, runtime, {"allow": {"uid": [4711]}}) as (proxy, endpoint),
        CriClient(endpoint, timeout=LIMIT_SECONDS) as client,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as full,
    ):
        code, message = failure_of(client.Version)
        assert code == "PERMISSION_DENIED"
        assert "uid" in message
        assert full.Version().runtime_name
        assert proxy.metric(DENIED, listener=endpoint, method="Version", reason="caller") == 1
        assert proxy.stop() == 0
    (record,) = records(short_dir)
    assert (record["method"], record["denied"]) == ("Version", "caller")


@pytest.mark.parametrize("allow", [{"kubelet": True}, {"kubelet": False}], ids=str)
def test_a_listener_for_the_kubelet(
    runtime: EmbeddedRuntime, short_dir: Path, allow: dict[str, Any]
) -> None:
    """Who the kubelet is, is what the configuration says."""
    with (
        scoped(short_dir, runtime, {"allow": allow}, kubelet={"executable": ["*/python*"]}) as it,
        CriClient(it[1], timeout=LIMIT_SECONDS) as client,
    ):
        code = "OK" if allow["kubelet"] else "PERMISSION_DENIED"
        assert failure_of(client.Version)[0] == code


def test_namespaces_of_before(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """A profile of namespaces shows the pods of these, those from before the start too."""
    with CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as direct:
        config = {"metadata": {"name": "web", "uid": "uid-web", "namespace": "shop"}}
        own = direct.RunPodSandbox(config=config).pod_sandbox_id
        others = [each.id for each in direct.ListPodSandbox().items if each.id != own]
    profiles = {"shop": {"methods": ["@read"], "namespaces": ["shop"]}}
    with (
        scoped(short_dir, runtime, {"profile": "shop"}, profiles=profiles) as (_, endpoint),
        CriClient(endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        wait_until(
            lambda: failure_of(lambda: client.PodSandboxStatus(pod_sandbox_id=own))[0] == "OK",
            "the pods of before",
        )
        assert others
        assert [each.id for each in client.ListPodSandbox().items] == [own]
        assert client.PodSandboxStatus(pod_sandbox_id=own).status.id == own
        status = failure_of(lambda: client.PodSandboxStatus(pod_sandbox_id=others[0]))
        assert status[0] == "PERMISSION_DENIED"


def test_rules_and_a_profile(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """Rules hold on what a profile lets through, also those that come with a reload, and the
    profile holds on when they go."""
    rule = {"name": "no", "match": {"methods": ["Status"]}, "deny": {"message": "not now"}}
    with (
        scoped(short_dir, runtime, {"profile": "read-only"}, rules=[rule]) as (proxy, endpoint),
        CriClient(endpoint, timeout=LIMIT_SECONDS) as client,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as full,
    ):
        assert failure_of(client.Status) == ("PERMISSION_DENIED", "not now")
        assert failure_of(full.Status) == ("PERMISSION_DENIED", "not now")
        proxy.reload(rules=[])
        proxy.event("rules loaded", rules=0)
        assert failure_of(client.Status)[0] == failure_of(full.Status)[0] == "OK"
        assert failure_of(lambda: client.RemoveImage(image={"image": "x"}))[0] == (
            "PERMISSION_DENIED"
        )


def test_a_changed_profile_is_reloaded(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """A reload puts another profile in force, for the clients that are connected as well."""
    mine = {"mine": {"methods": ["Version"]}}
    with (
        scoped(short_dir, runtime, {"profile": "mine"}, profiles=mine) as (proxy, endpoint),
        CriClient(endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        assert failure_of(client.Version)[0] == "OK"
        proxy.reload(profiles={"mine": {"methods": ["Status"]}})
        assert proxy.event("configuration loaded")["keys"] == ["profiles"]
        proxy.event("workers of before have ended")
        assert failure_of(client.Version)[0] == "PERMISSION_DENIED"
        assert failure_of(client.Status)[0] == "OK"


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"listeners": [{"profile": "readonly"}]}, "read-only"),
        ({"profiles": {"mine": {"methods": ["StopContainers"]}}}, "StopContainer"),
        ({"profiles": {"full": {"methods": ["Version"]}}}, "full"),
    ],
    ids=["name", "method", "taken"],
)
def test_profiles_that_cannot_be(short_dir: Path, config: dict[str, Any], what: str) -> None:
    """An unusable profile is one line of error, with its remedy, before any socket is opened."""
    status, stderr = Criproxy(short_dir, f"unix://{short_dir}/cri.sock", config=config).fails()
    assert status == 2
    assert len(stderr.splitlines()) == 1
    assert what in stderr


def test_pods_that_another_listener_makes(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """A profile knows the pods that clients of other listeners make while the daemon runs."""
    mine = {"mine": {"methods": ["ListPodSandbox", "PodSandboxStatus"], "namespaces": ["team"]}}
    with (
        scoped(short_dir, runtime, {"profile": "mine"}, profiles=mine) as (proxy, endpoint),
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as full,
        CriClient(endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        metadata = {"name": "web", "namespace": "team", "uid": "u1", "attempt": 0}
        pod = full.RunPodSandbox(config={"metadata": metadata}).pod_sandbox_id
        wait_until(
            lambda: failure_of(lambda: client.PodSandboxStatus(pod_sandbox_id=pod))[0] == "OK",
            "a pod that the profile shows",
        )
        assert [each.id for each in client.ListPodSandbox().items] == [pod]
        full.StopPodSandbox(pod_sandbox_id=pod)
        full.RemovePodSandbox(pod_sandbox_id=pod)
        wait_until(
            lambda: failure_of(lambda: client.PodSandboxStatus(pod_sandbox_id=pod))[0] != "OK",
            "the end of the pod",
        )


def test_rules_about_pods_that_another_listener_makes(
    runtime: EmbeddedRuntime, short_dir: Path
) -> None:
    """A rule about pods is kept on a scoped listener for pods that clients of the full one make."""
    rule = {
        "name": "not-here",
        "match": {"methods": ["PodSandboxStatus"], "where": 'pod.namespace == "secret"'},
        "deny": {"message": "no"},
    }
    with (
        scoped(short_dir, runtime, {"profile": "read-only"}, rules=[rule]) as (proxy, endpoint),
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as full,
        CriClient(endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        metadata = {"name": "web", "namespace": "secret", "uid": "u1", "attempt": 0}
        pod = full.RunPodSandbox(config={"metadata": metadata}).pod_sandbox_id
        wait_until(
            lambda: (
                failure_of(lambda: client.PodSandboxStatus(pod_sandbox_id=pod))[0]
                == "PERMISSION_DENIED"
            ),
            "a denial of the rule",
        )
