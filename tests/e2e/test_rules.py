"""Rules on a real containerd: their effects are checked on the runtime's own socket."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from criproxy.client import CriClient
from tests.support.containerd import Containerd
from tests.support.criproxy import Criproxy
from tests.support.pods import Pods
from tests.support.rules import HELD_BY_A_FILE
from tests.support.waiting import LIMIT_SECONDS, wait_until

pytestmark = pytest.mark.e2e

UNREACHED = "1h"
"""A delay that no test waits for: the call's deadline comes first."""
DEADLINES = (1.0, 10.0, LIMIT_SECONDS)
"""What such a call has to get to the proxy by, in seconds: the shortest that is enough."""


def rule(name: str, methods: str, where: str | None = None, **action: Any) -> dict[str, Any]:
    match = {"methods": methods.split()} | ({"where": where} if where else {})
    return {"name": name, "match": match, **action}


def refused(call: Callable[[], Any]) -> tuple[str, str]:
    """The code and the message that a call fails with."""
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value.code().name, error.value.details() or ""


def out_of_time(proxy: Criproxy, name: str, call: Callable[..., Any]) -> None:
    """See that a call that a rule has waiting ends with its deadline, and is in the log."""

    def matches() -> float:
        return proxy.metric("criproxy_rule_matches_total", rule=name)

    before = matches()
    for deadline in DEADLINES:
        code, _ = refused(partial(call, deadline=deadline))
        # A runtime whose deadline is first resets with CANCEL.
        assert code in {"DEADLINE_EXCEEDED", "CANCELLED"}
        if matches() > before:
            break
    assert matches() > before
    wait_until(lambda: len(proxy.events("call", rules=[name])) == matches(), "calls in the log")


@pytest.fixture
def pods(runtime: Containerd, version: str) -> Iterator[Pods]:
    with Pods(runtime, version) as pods:
        yield pods


class Ruled:
    """A proxy with rules, and a client of it."""

    def __init__(self, runtime: Containerd, directory: Path, version: str) -> None:
        self.runtime = runtime
        self.directory = directory
        self.version = version

    @contextmanager
    def __call__(self, *rules: dict[str, Any]) -> Iterator[tuple[Criproxy, CriClient]]:
        config = {"rules": [*rules]}
        with (
            Criproxy(self.directory, self.runtime.endpoint, config=config) as proxy,
            CriClient(proxy.endpoint, self.version, timeout=LIMIT_SECONDS) as client,
        ):
            yield proxy, client
            wait_until(lambda: proxy.metric("criproxy_held_streams") == 0, "nothing held")
            assert proxy.metric("criproxy_held_bytes") == 0
            assert not proxy.events("handling failed")


@pytest.fixture
def ruled(runtime: Containerd, short_dir: Path, version: str) -> Ruled:
    return Ruled(runtime, short_dir, version)


# Denials and faults
# ------------------


def test_denied_container(ruled: Ruled, pods: Pods) -> None:
    """A container whose image is refused never gets to the runtime; others of its pod do."""
    where = 'request.config.image.image.startsWith("docker.io/")'
    denial = {"code": "PERMISSION_DENIED", "message": "not allowed on this node"}
    with ruled(rule("only-ours", "CreateContainer", where, deny=denial)) as (proxy, client):
        pod = pods.pod(client, "web")
        bad = {"image": "docker.io/library/bad:1"}
        assert refused(lambda: pods.create(client, pod, "bad", image=bad)) == (
            "PERMISSION_DENIED",
            "not allowed on this node",
        )
        good = pods.start(client, pod, "good")
        assert pods.names(pod) == ["good"]
        assert pods.state(good) == "RUNNING"
        assert proxy.metric("criproxy_rule_matches_total", rule="only-ours") == 1
        (denied,) = proxy.events("call", code="PERMISSION_DENIED")
        assert denied["rules"] == ["only-ours"]


def test_lost_reply(ruled: Ruled, pods: Pods) -> None:
    """A start whose reply is replaced has happened: the client gets a code, the container runs."""
    lost = {"code": "UNAVAILABLE", "message": "injected", "when": "after", "times": 1}
    where = 'pod.namespace == "chaos"'
    with ruled(rule("flaky", "StartContainer", where, fault=lost)) as (_, client):
        pod = pods.pod(client, "web", "chaos")
        first, second = (pods.create(client, pod, name) for name in ("first", "second"))
        call = client.StartContainer
        assert refused(lambda: call(container_id=first)) == ("UNAVAILABLE", "injected")
        assert pods.state(first) == "RUNNING"
        call(container_id=second)
        assert pods.state(second) == "RUNNING"


def test_fault_before_the_runtime(ruled: Ruled, pods: Pods) -> None:
    """A start that fails before the runtime is asked has not happened."""
    fault = {"code": "UNAVAILABLE", "message": "injected", "times": 1}
    with ruled(rule("flaky", "StartContainer", fault=fault)) as (_, client):
        container = pods.create(client, pods.pod(client, "web"))
        call = client.StartContainer
        assert refused(lambda: call(container_id=container)) == ("UNAVAILABLE", "injected")
        assert pods.state(container) == "CREATED"
        call(container_id=container)
        assert pods.state(container) == "RUNNING"


# Waiting
# -------


def test_deadline_within_a_delay(ruled: Ruled, pods: Pods) -> None:
    """A start delayed before the runtime ends with its deadline, and is never heard of there."""
    with ruled(rule("slow", "StartContainer", delay={"fixed": UNREACHED})) as (proxy, client):
        container = pods.create(client, pods.pod(client, "web"))
        out_of_time(proxy, "slow", partial(client.StartContainer, container_id=container))
        assert pods.state(container) == "CREATED"


def test_cancelled_within_a_delay(ruled: Ruled, pods: Pods) -> None:
    """A start delayed after the runtime has happened, whatever becomes of its call."""
    delay = {"fixed": UNREACHED, "when": "after"}
    with ruled(rule("slow", "StartContainer", delay=delay)) as (proxy, client):
        container = pods.create(client, pods.pod(client, "web"))
        request = client.messages.StartContainerRequest(container_id=container)
        call = client.raw("StartContainer").future(request, timeout=LIMIT_SECONDS)
        wait_until(lambda: pods.state(container) == "RUNNING", "started container")
        call.cancel()
        told = proxy.event("call", method="StartContainer")
        assert (told["code"], told["rules"]) == ("CANCELLED", ["slow"])
        assert pods.state(container) == "RUNNING"


def test_hanging_exec(ruled: Ruled, pods: Pods) -> None:
    """An exec hangs until its deadline or until it is cancelled; calls beside it are answered."""
    where = 'request.cmd == ["/bin/hang"]'
    with ruled(rule("hang", "ExecSync", where, fault={"hang": True})) as (proxy, client):
        container = pods.start(client, pods.pod(client, "web"))
        hanging = {"container_id": container, "cmd": ["/bin/hang"]}
        request = client.messages.ExecSyncRequest(**hanging)
        call = client.raw("ExecSync").future(request, timeout=LIMIT_SECONDS)
        wait_until(lambda: proxy.metric("criproxy_held_streams") == 1, "hanging exec")
        assert client.ExecSync(container_id=container, cmd=["echo", "hi"]).stdout == b"hi\n"
        assert client.ContainerStatus(container_id=container).status.id == container
        assert proxy.metric("criproxy_held_streams") == 1
        call.cancel()
        assert proxy.event("call", method="ExecSync", code="CANCELLED")["rules"] == ["hang"]
        out_of_time(proxy, "hang", partial(client.ExecSync, **hanging))


# Changes
# -------


def test_label_of_a_script(ruled: Ruled, pods: Pods) -> None:
    """A label that a script adds is the pod's and the container's own, and listings find it."""
    (ruled.directory / "label.py").write_text(
        "def request(call):\n"
        "    pod = call.pod.namespace\n"
        "    call.message.config.labels['owner'] = f'{call.method} of {pod}'\n"
    )
    hook = {"script": "label.py", "timeout": "20s"}
    methods = "RunPodSandbox CreateContainer"
    with ruled(rule("label", methods, hook=hook)) as (_, client):
        pod = pods.pod(client, "web", labels={"app": "web"})
        container = pods.start(client, pod, labels={"tier": "e2e"})
        direct = pods.direct
        assert direct.PodSandboxStatus(pod_sandbox_id=pod).status.labels == {
            "app": "web",
            "owner": "RunPodSandbox of e2e",
        }
        assert direct.ContainerStatus(container_id=container).status.labels == {
            "tier": "e2e",
            "owner": "CreateContainer of e2e",
        }
        selector = {"label_selector": {"owner": "CreateContainer of e2e"}}
        assert [c.id for c in client.ListContainers(filter=selector).containers] == [container]


def test_rewritten_container(ruled: Ruled, pods: Pods) -> None:
    """What a rule puts into a container's configuration is what the container runs with."""
    shared = ruled.directory / "shared"
    shared.mkdir()
    (shared / "word").write_text("from the host")
    mount = f'Mount{{host_path: "{shared}", container_path: "/shared", readonly: true}}'
    rewrite = {
        "request": {
            "config.mounts[]": mount,
            "config.envs[]": '{"key": "POD", "value": pod.name + "\\u00fc"}',
            'config.annotations["pod"]': 'pod.namespace + "/" + pod.name',
            "config.working_dir": '"/shared"',
        }
    }
    with ruled(rule("share", "CreateContainer", rewrite=rewrite)) as (_, client):
        container = pods.start(client, pods.pod(client, "web"))
        answer = client.ExecSync(container_id=container, cmd=["cat", "word"])
        assert answer.stdout == b"from the host"
        answer = client.ExecSync(container_id=container, cmd=["sh", "-c", "echo $POD"])
        assert answer.stdout.decode() == "webü\n"
        status = pods.direct.ContainerStatus(container_id=container).status
        assert status.annotations == {"pod": "e2e/web"}
        assert [each.host_path for each in status.mounts] == [str(shared)]


def test_rewritten_answer(ruled: Ruled, pods: Pods) -> None:
    """What a rule takes out of an answer the client does not see; the runtime still has it."""
    rewrite = {"response": {'status.annotations["secret"]': None}}
    with ruled(rule("hide", "ContainerStatus", rewrite=rewrite)) as (_, client):
        annotations = {"secret": "x", "open": "y"}
        container = pods.create(client, pods.pod(client, "web"), annotations=annotations)
        hidden = client.ContainerStatus(container_id=container).status
        whole = pods.direct.ContainerStatus(container_id=container).status
        assert whole.annotations == annotations
        del whole.annotations["secret"]
        assert hidden == whole


# Ids alone
# ---------


def test_pod_of_an_id(ruled: Ruled, pods: Pods) -> None:
    """Calls with an id alone are matched by pod, made before the proxy's start or not."""
    where = 'pod.namespace == "guarded" && container.name == "main"'
    denied = rule("guard", "StopContainer ExecSync", where, deny={"message": "guarded"})
    before = [pods.pod(pods.direct, "before", each) for each in ("guarded", "free")]
    kept, free = (pods.start(pods.direct, pod) for pod in before)
    with ruled(denied) as (proxy, client):
        proxy.event("pods listed")
        after = [pods.pod(client, "after", each) for each in ("guarded", "free")]
        guarded = [kept, pods.start(client, after[0])]
        others = [free, pods.start(client, after[1]), pods.start(client, after[0], "sidecar")]
        for container in guarded:
            for call in _by_id(client, container):
                assert refused(call) == ("PERMISSION_DENIED", "guarded")
            assert pods.state(container) == "RUNNING"
        for container in others:
            for call in _by_id(client, container):
                call()
            assert pods.state(container) == "EXITED"
        assert proxy.metric("criproxy_rule_errors_total") == 0


def _by_id(client: CriClient, container: str) -> list[Callable[[], Any]]:
    return [
        lambda: client.ExecSync(container_id=container, cmd=["true"]),
        lambda: client.StopContainer(container_id=container, timeout=0),
    ]


def test_pod_that_nobody_knows(ruled: Ruled, pods: Pods) -> None:
    """A pod that was made past the proxy is unknown: where is false for it, and that is counted."""
    denied = rule("guard", "ExecSync", 'pod.namespace == "guarded"', deny={"message": "guarded"})
    with ruled(denied) as (proxy, client):
        proxy.event("pods listed")
        container = pods.start(pods.direct, pods.pod(pods.direct, "past", "guarded"))
        client.ExecSync(container_id=container, cmd=["true"])
        errors = proxy.metric("criproxy_rule_errors_total", rule="guard", reason="unknown_pod")
        assert errors == 1


# Reloading
# ---------

HELD_EXEC = f"""{HELD_BY_A_FILE}
    call.message.cmd[:] = ["echo", "old rules"]
"""


def _words(word: str) -> dict[str, Any]:
    rewrite = {"request": {"cmd": f'["echo", "{word}"]'}}
    return rule(word.replace(" ", "-"), "ExecSync", rewrite=rewrite)


def test_reload_while_an_exec_is_held(ruled: Ruled, pods: Pods) -> None:
    """A call that is held ends under the rules that it began with; the next has the new ones."""
    (ruled.directory / "hold.py").write_text(HELD_EXEC)
    hook = {"script": "hold.py", "timeout": "60s"}
    with ruled(rule("old", "ExecSync", hook=hook)) as (proxy, client):
        container = pods.start(client, pods.pod(client, "web"))
        request = client.messages.ExecSyncRequest(container_id=container, cmd=["true"])
        held = client.raw("ExecSync").future(request, timeout=LIMIT_SECONDS)
        wait_until(lambda: proxy.metric("criproxy_held_streams") == 1, "held exec")
        proxy.reload(rules=[_words("new rules")])
        proxy.event("rules loaded")
        assert client.ExecSync(request).stdout == b"new rules\n"
        assert not held.done()
        (ruled.directory / "gate").touch()
        assert held.result().stdout == b"old rules\n"
        assert client.ExecSync(request).stdout == b"new rules\n"
        execs = wait_until(
            lambda: (calls := proxy.events("call", method="ExecSync"))[2:] and calls, "three calls"
        )
        assert [call["rules"] for call in execs] == [["new-rules"], ["old"], ["new-rules"]]


def test_reload_of_a_bad_file(ruled: Ruled, pods: Pods) -> None:
    """A bad file leaves the last good rules in force, and its error with its line in the log."""
    with ruled(_words("first")) as (proxy, client):
        container = pods.start(client, pods.pod(client, "web"))
        request = client.messages.ExecSyncRequest(container_id=container, cmd=["true"])
        bad = _words("second") | {"match": {"methods": ["ExecSync"], "where": "request.cmdd == []"}}
        proxy.reload(rules=[_words("third"), bad])
        error = proxy.event("reload failed")["error"]
        line = proxy.file.read_text().split("where:")[0].count("\n") + 1
        assert error.startswith(f"{proxy.file}:{line}: rules[1].match.where: ")
        assert "undefined field 'cmdd'" in error
        assert proxy.metric("criproxy_config_reload_success") == 0
        assert client.ExecSync(request).stdout == b"first\n"
        proxy.reload(rules=[_words("fourth")])
        proxy.event("rules loaded")
        assert proxy.metric("criproxy_config_reload_success") == 1
        assert client.ExecSync(request).stdout == b"fourth\n"
