"""Calls at a listener with a profile: denials, restricted requests and filtered responses."""

import gzip
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from google.protobuf.message import Message

from criproxy.cri.messages import MODULES, request_class, response_class
from criproxy.cri.methods import FALLBACKS, METHODS, SERVER_STREAMING
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.enforce.policies.deny_policy import DenyAllPolicy, rejection_reason
from criproxy.enforce.policies.profile_policy import ProfilePolicy
from criproxy.enforce.policies.rule_policy import RulePolicy
from criproxy.peers.peer import Connection, Peer
from criproxy.rules.compiled.ruleset import compile_rules
from criproxy.rules.profiles.profile import ProfileSpec, profile_of
from criproxy.rules.spec import CallersSpec
from criproxy.wire.grpc import StatusCode
from tests.support.calls import CONNECTION
from tests.support.held import CLIENT, IMAGES, RUNTIME, V1, Rules, Scripted, specs
from tests.support.virtual_time import run

DENIED = StatusCode.PERMISSION_DENIED
UNIMPLEMENTED = StatusCode.UNIMPLEMENTED
UNKNOWN = b"\xc2\xbe\x0f\x04kept"
SECRET = "s3cret"
READ = ["@read"]
READS = [path for path, each in METHODS.items() if not each.mutating]
CHANGES = [path for path, each in METHODS.items() if each.mutating]


class Scoped:
    """A listener with a profile. The pod cache has two pods, each with a container.

    ``web-id`` is in the namespace shop and has ``web-c``; ``db-id`` is in bank and has ``db-c``.
    """

    def __init__(self, *rules: dict[str, Any], name: str = "mine", **profile: Any) -> None:
        spec = msgspec.convert({"methods": READ, **profile}, ProfileSpec)
        found = profile_of(name, {"mine": spec})
        assert found is not None
        base = Rules()
        self.counts, self.resources = base.counts, base.resources
        policy = RulePolicy(compile_rules(specs(rules)), base.resources, updates_pod_cache=True)
        self.policy = ProfilePolicy(found, base.resources, policy)
        self.resources.pod_cache.add_listing(
            v1.ListPodSandboxResponse(items=[POD, OTHER_POD]).SerializeToString(),
            v1.ListContainersResponse(containers=[CONTAINER, OTHER]).SerializeToString(),
        )

    def call(self, path: str, connection: Connection = CONNECTION, **more: Any) -> Scripted:
        if not path.startswith("/"):
            path = f"/{path}" if "/" in path else f"/{V1}/{path}"
        rules: Any = self
        return Scripted(rules, path.encode(), connection=connection, **more)

    def asks(self, path: str, request: Message, connection: Connection = CONNECTION) -> Scripted:
        call = self.call(path, connection)
        call.asks(request)
        return call

    def shows(self, path: str, request: Message, response: Message, **more: Any) -> Message | None:
        """Return the forwarded response; None where it is dropped."""
        call = self.asks(path, request, **more)
        assert "answer" not in [each[0] for each in call.done]
        call.forget()
        call.answers(response.SerializeToString() + UNKNOWN)
        assert call.done[-1] == ("end", RUNTIME)
        sent = [each[2] for each in call.done if each[0] == "send"]
        return None if not sent else type(response).FromString(sent[0])


POD = v1.PodSandbox(id="web-id", metadata={"namespace": "shop", "name": "web", "uid": "u1"})
OTHER_POD = v1.PodSandbox(id="db-id", metadata={"namespace": "bank", "name": "db", "uid": "u2"})
CONTAINER = v1.Container(id="web-c", pod_sandbox_id="web-id", metadata={"name": "c"})
OTHER = v1.Container(id="db-c", pod_sandbox_id="db-id", metadata={"name": "c"})
POD_STATUS = v1.PodSandboxStatus(id="web-id", metadata=POD.metadata)
OTHER_STATUS = v1.PodSandboxStatus(id="db-id", metadata=OTHER_POD.metadata)


def caller(container: str | None = None, pod_uid: str | None = None) -> Connection:
    peer = Peer(1, 0, 0, "/bin/agent", container=container, pod_uid=pod_uid)
    return Connection("unix:///run/scoped.sock", peer, 0.0)


def denied(call: Scripted, reason: str, code: StatusCode = DENIED) -> str:
    """Assert that a call was denied for a reason; return the status message."""
    assert call.done[-1][:2] == ("answer", code), call.done
    assert not [each for each in call.done if each[0] == "send"]
    assert call.call.denied == reason
    message: str = call.done[-1][2]
    return message


@pytest.mark.parametrize("path", CHANGES)
def test_changes_are_denied(path: str) -> None:
    """A call that is not a read is denied when it is opened, and counted."""

    async def main() -> None:
        scoped = Scoped(name="read-only")
        call = scoped.call(path)
        name = METHODS[path].name
        told = denied(call, "method")
        assert told == f"criproxy: profile read-only does not allow {name}"
        assert scoped.counts.denied == {(CONNECTION.listener, name, "method"): 1}

    run(main)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "*",
        "/",
        f"{V1}/Version",
        f"//{V1}/Version",
        f"/{V1}//Version",
        f"/{V1}/Version/",
        f"/{V1}/version",
        f"/{V1.lower()}/Version",
        f"/{V1}/Version?x",
        f"/{V1}/%56ersion",
        f"/{V1}/ListEverything",
        "/runtime.v2.RuntimeService/Version",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.health.v1.Health/Check",
        "/containerd.services.tasks.v1.Tasks/Kill",
        "/" + "x" * 100_000,
        "/\xff\x00\n",
    ],
)
@pytest.mark.parametrize("methods", [["*"], ["@read", "@mutating"]])
def test_what_is_not_in_the_cri(path: str, methods: list[str]) -> None:
    """Methods outside the CRI are denied, whatever the profile's globs are, as by a server that
    does not have them: a newer client falls back to those that it has."""

    async def main() -> None:
        scoped = Scoped(methods=methods)
        rules: Any = scoped
        call = Scripted(rules, path.encode("latin-1"))
        told = denied(call, "unknown_method", UNIMPLEMENTED)
        assert told.startswith("criproxy: profile mine allows nothing that is not in the CRI")
        assert len(told) < 1000
        ((_, method, _),) = scoped.counts.denied
        assert method in ("other", "Version")

    run(main)


ALPHA = "/runtime.v1alpha2.RuntimeService"


@pytest.mark.parametrize(
    ("method", "methods", "code"),
    [
        ("StreamPodSandboxes", ["List*"], UNIMPLEMENTED),
        ("StreamContainers", ["List*"], UNIMPLEMENTED),
        ("StreamContainerStats", ["List*"], UNIMPLEMENTED),
        ("StreamPodSandboxStats", ["List*"], UNIMPLEMENTED),
        ("StreamPodSandboxMetrics", ["List*"], UNIMPLEMENTED),
        ("StreamContainers", ["ListPodSandbox"], DENIED),
        ("GetContainerEvents", ["List*"], UNIMPLEMENTED),
        ("GetContainerEvents", ["ListContainers"], DENIED),
        ("ListPodSandboxStats", ["List*s", "ListPodSandbox"], None),
        ("ListPodSandboxStats", ["ListCont*", "ListPodSandbox"], UNIMPLEMENTED),
        ("ListPodSandboxStats", ["ListPodSandbox"], DENIED),
        ("RuntimeConfig", ["Version"], UNIMPLEMENTED),
        ("UpdatePodSandboxResources", ["Update*Resources"], None),
        ("UpdatePodSandboxResources", ["UpdateContainerResources"], UNIMPLEMENTED),
        ("UpdatePodSandboxResources", ["@read"], DENIED),
        ("ListContainers", ["Stream*"], DENIED),
        ("ListMetricDescriptors", ["ListPodSandboxMetrics"], DENIED),
        ("ListPodSandboxMetrics", ["ListMetricDescriptors"], DENIED),
        ("CheckpointContainer", ["@read"], DENIED),
        ("StopContainer", ["@read"], DENIED),
        ("Version", [f"{ALPHA}/*"], UNIMPLEMENTED),
        ("StreamContainers", [f"{ALPHA}/*"], DENIED),
    ],
)
def test_clients_that_fall_back(method: str, methods: list[str], code: StatusCode | None) -> None:
    """A method that clients do without on UNIMPLEMENTED alone is denied with that code, if what
    they use instead is allowed."""

    async def main() -> None:
        scoped = Scoped(methods=methods)
        call = scoped.call(method)
        if code is None:
            assert not call.done
        else:
            told = denied(call, "method", code)
            assert told == f"criproxy: profile mine does not allow {method}"

    run(main)


def test_older_version() -> None:
    """A client of v1alpha2 is denied what is allowed in v1: it has tried v1 before."""

    async def main() -> None:
        scoped = Scoped(methods=[f"/{V1}/*"])
        denied(scoped.call(f"{ALPHA}/Version"), "method")
        denied(Scoped(methods=[f"{ALPHA}/*"]).call(f"{IMAGES}/ListImages"), "method")

    run(main)


def test_each_fallback_is_a_method() -> None:
    """The table of what clients fall back to names methods of the CRI, all streams among them."""
    names = {each.name for each in METHODS.values()}
    assert names.issuperset(FALLBACKS)
    assert names.issuperset(name for each in FALLBACKS.values() for name in each)
    assert FALLBACKS.keys() >= SERVER_STREAMING


def test_two_paths() -> None:
    """A call with two paths is denied: the runtime may use the other one."""

    async def main() -> None:
        scoped = Scoped()
        call = scoped.call("Version", headers=[(b":path", f"/{V1}/StopContainer".encode())])
        denied(call, "unknown_method")

    run(main)


@pytest.mark.parametrize("path", READS)
def test_reads_pass(path: str) -> None:
    """Every read is forwarded unchanged."""

    async def main() -> None:
        call = Scoped(name="read-only").call(path)
        request = request_class(METHODS[path])().SerializeToString() + UNKNOWN
        call.asks(request)
        assert "answer" not in [each[0] for each in call.done]
        assert call.call.denied == ""

    run(main)


def test_images_only_is_not_held() -> None:
    """Calls that images-only allows pass unchanged; the others are denied. Pulls are followed where
    rules use names of images."""

    async def main() -> None:
        scoped = Scoped(name="images-only")
        assert scoped.call(f"{IMAGES}/ListImages").hold is None
        assert scoped.call(f"{IMAGES}/RemoveImage").hold is None
        assert scoped.call("Version").hold is None
        denied(scoped.call("ListContainers"), "method")

    run(main)


@pytest.mark.parametrize("version", sorted(MODULES))
@pytest.mark.parametrize(
    ("method", "field"),
    [
        ("ContainerStatus", "container_id"),
        ("ContainerStats", "container_id"),
        ("PodSandboxStatus", "pod_sandbox_id"),
        ("PodSandboxStats", "pod_sandbox_id"),
        ("StopContainer", "container_id"),
        ("ExecSync", "container_id"),
        ("PortForward", "pod_sandbox_id"),
    ],
)
def test_ids_out_of_sight(version: str, method: str, field: str) -> None:
    """An id of another namespace, an unknown id and no id are denied with the same message; a
    visible one is forwarded in full, where only its beginning was given."""

    async def main() -> None:
        scoped = Scoped(methods=["*"], namespaces=["shop"])
        path = f"/runtime.{version}.RuntimeService/{method}"
        kind = request_class(METHODS[path])
        ends = "c" if field == "container_id" else "id"
        told = set()
        for id_, reason in (
            (f"db-{ends}", "namespace"),
            ("db", "namespace"),
            ("nobody", "unknown_pod"),
            ("", "unknown_pod"),
        ):
            told.add(denied(scoped.asks(path, kind(**{field: id_})), reason))
        assert told == {f"criproxy: profile mine allows {method} for pods of namespaces shop alone"}
        for id_ in (f"web-{ends}", "web"):
            call = scoped.asks(path, kind(**{field: id_}))
            request: Any = kind.FromString(call.done[0][2])
            assert getattr(request, field) == f"web-{ends}"

    run(main)


def test_requests_lose_what_is_not_known() -> None:
    """Unknown fields of a request could name another pod: they are removed."""

    async def main() -> None:
        scoped = Scoped(namespaces=["shop"])
        request = v1.ContainerStatusRequest(container_id="web-c", verbose=True)
        call = scoped.call("ContainerStatus")
        call.asks(request.SerializeToString() + UNKNOWN)
        assert call.done[0] == ("send", CLIENT, request.SerializeToString())

    run(main)


def test_requests_that_cannot_be_looked_at() -> None:
    """A request that cannot be read, or is too large, is not forwarded."""

    async def main() -> None:
        for request in ([b"\xff"], [b"", b""], []):
            call = Scoped(namespaces=["shop"]).call("ContainerStatus")
            call.asks(*request)
            assert [each[0] for each in call.done] == ["answer"]
            assert call.done[0][1] is StatusCode.INTERNAL
        call = Scoped(namespaces=["shop"]).call("ContainerStatus")
        call.limit_exceeded(CLIENT)
        assert call.done[0][:2] == ("answer", StatusCode.RESOURCE_EXHAUSTED)
        call = Scoped(namespaces=["shop"]).call("ContainerStatus")
        hidden = v1.ContainerStatusRequest(container_id="db-c").SerializeToString()
        call.asks(gzip.compress(hidden), compressed=True)
        assert call.done[0][0] == "answer"

    run(main)


def test_pods_that_are_made() -> None:
    """Pods are created only in the profile's namespaces, and never with `own_pod`."""

    async def main() -> None:
        def asks(namespace: str, **profile: Any) -> Scripted:
            config = v1.PodSandboxConfig(metadata={"namespace": namespace, "uid": "u1"})
            scoped = Scoped(methods=["*"], **profile)
            request = v1.RunPodSandboxRequest(config=config)
            return scoped.asks("RunPodSandbox", request, caller("web-c"))

        assert asks("shop", namespaces=["sh*"]).done[-1] == ("end", CLIENT)
        denied(asks("bank", namespaces=["sh*"]), "namespace")
        denied(asks("shop", own_pod=True), "own_pod")
        scoped = Scoped(methods=["*"], namespaces=["shop"])
        request = v1.CreateContainerRequest(
            pod_sandbox_id="web-id", sandbox_config={"metadata": {"namespace": "bank"}}
        )
        denied(scoped.asks("CreateContainer", request), "namespace")
        request = v1.CheckpointPodRequest(pod_sandbox_id="web-id", container_ids=["web-c", "db-c"])
        denied(scoped.asks("CheckpointPod", request), "namespace")

    run(main)


def test_what_is_made_is_remembered() -> None:
    """A pod created through the socket becomes visible without any rule."""

    async def main() -> None:
        scoped = Scoped(methods=["*"], namespaces=["shop"])
        config = v1.PodSandboxConfig(metadata={"namespace": "shop"})
        call = scoped.asks("RunPodSandbox", v1.RunPodSandboxRequest(config=config))
        call.answers(v1.RunPodSandboxResponse(pod_sandbox_id="new"))
        request = v1.PodSandboxStatusRequest(pod_sandbox_id="new")
        assert scoped.asks("PodSandboxStatus", request).done[-1] == ("end", CLIENT)

    run(main)


def _stats(id_: str) -> v1.ContainerStats:
    return v1.ContainerStats(attributes={"id": id_})


def _pod_stats(id_: str, metadata: Any) -> v1.PodSandboxStats:
    return v1.PodSandboxStats(attributes={"id": id_, "metadata": metadata})


_PODS = ([OTHER_POD, POD, OTHER_POD, POD], [POD, POD])
_CONTAINERS = ([CONTAINER, OTHER, v1.Container(id="x", pod_sandbox_id="nobody")], [CONTAINER])
_STATS = ([_stats("db-c"), _stats("web-c"), _stats("web"), _stats("")], [_stats("web-c")])
_POD_STATS = (
    [_pod_stats("web-id", POD.metadata), _pod_stats("db-id", OTHER_POD.metadata)],
    [_pod_stats("web-id", POD.metadata)],
)
_METRICS = (
    [v1.PodSandboxMetrics(pod_sandbox_id=each) for each in ("db-id", "web-id", "web", "")],
    [v1.PodSandboxMetrics(pod_sandbox_id="web-id")],
)
LISTS = [
    ("ListPodSandbox", v1.ListPodSandboxResponse, "items", *_PODS),
    ("StreamPodSandboxes", v1.StreamPodSandboxesResponse, "pod_sandboxes", *_PODS),
    ("ListContainers", v1.ListContainersResponse, "containers", *_CONTAINERS),
    ("StreamContainers", v1.StreamContainersResponse, "containers", *_CONTAINERS),
    ("ListContainerStats", v1.ListContainerStatsResponse, "stats", *_STATS),
    ("StreamContainerStats", v1.StreamContainerStatsResponse, "container_stats", *_STATS),
    ("ListPodSandboxStats", v1.ListPodSandboxStatsResponse, "stats", *_POD_STATS),
    ("StreamPodSandboxStats", v1.StreamPodSandboxStatsResponse, "pod_sandbox_stats", *_POD_STATS),
    ("ListPodSandboxMetrics", v1.ListPodSandboxMetricsResponse, "pod_metrics", *_METRICS),
    (
        "StreamPodSandboxMetrics",
        v1.StreamPodSandboxMetricsResponse,
        "pod_sandbox_metrics",
        *_METRICS,
    ),
]


@pytest.mark.parametrize("profile", [{"namespaces": ["shop"]}, {"own_pod": True}])
@pytest.mark.parametrize(("method", "kind", "field", "all_of_them", "seen"), LISTS)
def test_lists(
    profile: dict[str, Any], method: str, kind: Any, field: str, all_of_them: Any, seen: Any
) -> None:
    """Lists contain what is visible, in order and unchanged; messages of a stream with nothing
    visible are dropped."""

    async def main() -> None:
        scoped = Scoped(**profile)
        path = f"/{V1}/{method}"
        request = request_class(METHODS[path])()
        me = caller("web-c")
        answer = kind(**{field: all_of_them})
        assert scoped.shows(path, request, answer, connection=me) == kind(**{field: seen})
        hidden = kind(**{field: [each for each in all_of_them if each not in seen]})
        nothing = None if METHODS[path].server_streaming else kind()
        assert scoped.shows(path, request, hidden, connection=me) == nothing
        assert scoped.shows(path, request, kind(), connection=me) == kind()

    run(main)


@pytest.mark.parametrize("scrub", [["environment"], ["mounts"], ["info"]])
def test_streams_are_scrubbed_as_lists(scrub: list[str]) -> None:
    """An item of a stream's message is scrubbed as that of a list."""
    manifest = '{"env": [{"value": "s3cret"}], "mounts": ["/host"], "a": 1}'
    annotations = {"manifest": manifest}
    twins = [
        ("ListContainers", "StreamContainers", v1.Container(annotations=annotations)),
        ("ListPodSandbox", "StreamPodSandboxes", v1.PodSandbox(annotations=annotations)),
        (
            "ListContainerStats",
            "StreamContainerStats",
            v1.ContainerStats(attributes={"annotations": annotations}),
        ),
        (
            "ListPodSandboxStats",
            "StreamPodSandboxStats",
            v1.PodSandboxStats(attributes={"annotations": annotations}),
        ),
        (
            f"{IMAGES}/ListImages",
            f"{IMAGES}/StreamImages",
            v1.Image(spec={"annotations": annotations}),
        ),
    ]

    async def main() -> None:
        scoped = Scoped(scrub=scrub)
        for listing, stream, item in twins:
            shown = []
            for name in (listing, stream):
                path = f"/{name}" if "/" in name else f"/{V1}/{name}"
                kind = response_class(METHODS[path])
                (field,) = kind.DESCRIPTOR.fields
                answer = scoped.shows(
                    path, request_class(METHODS[path])(), kind(**{field.name: [item]})
                )
                (left,) = getattr(answer, field.name)
                shown.append(left)
            assert shown[0] == shown[1]
            assert (shown[0] != item) is (scrub != ["info"])

    run(main)


def test_lists_are_all_tried() -> None:
    """Each method that returns lists is in the test above."""
    many = {each.name for each in METHODS.values() if each.name.startswith(("List", "Stream"))}
    about_images = {"ListImages", "StreamImages", "ListMetricDescriptors"}
    assert many - about_images == {each[0] for each in LISTS}


def test_statuses() -> None:
    """A status is forwarded if it is about a visible pod, whatever the runtime responds."""

    async def main() -> None:
        scoped = Scoped(namespaces=["shop"], scrub=["info"])
        ask = v1.PodSandboxStatusRequest(pod_sandbox_id="web-id", verbose=True)
        containers = [v1.ContainerStatus(id="web-c")]
        right = v1.PodSandboxStatusResponse(
            status=POD_STATUS, containers_statuses=containers, info={"a": SECRET}
        )
        assert scoped.shows("PodSandboxStatus", ask, right) == v1.PodSandboxStatusResponse(
            status=POD_STATUS, containers_statuses=containers
        )
        for method, request, wrong in (
            ("PodSandboxStatus", ask, v1.PodSandboxStatusResponse(status=OTHER_STATUS)),
            (
                "ContainerStatus",
                v1.ContainerStatusRequest(container_id="web-c"),
                v1.ContainerStatusResponse(status={"id": "db-c"}),
            ),
            (
                "ContainerStats",
                v1.ContainerStatsRequest(container_id="web-c"),
                v1.ContainerStatsResponse(stats=_stats("db-c")),
            ),
        ):
            call = scoped.asks(method, request)
            call.forget()
            call.answers(wrong)
            denied(call, "unknown_pod")

    run(main)


def test_events() -> None:
    """Events of pods that are not visible are dropped; a visible pod's removal is forwarded."""

    async def main() -> None:
        def event(id_: str, kind: int = 0, status: Any = None) -> v1.ContainerEventResponse:
            made = v1.ContainerEventResponse(container_id=id_, pod_sandbox_status=status)
            made.container_event_type = kind  # type: ignore[assignment]
            return made

        scoped = Scoped(namespaces=["shop"])
        call = scoped.call("GetContainerEvents")
        call.asks(v1.GetEventsRequest())
        call.forget()
        events = [
            (event("db-c"), False),
            (event("web-c"), True),
            (event("web-id"), True),
            (event("nobody"), False),
            (event("new-c", 0, POD_STATUS), True),
            (event("new-d", 0, OTHER_STATUS), False),
            (event("web-c", 0, OTHER_STATUS), False),
            (event("new-c", 3), True),
            (event("new-d", 3), False),
            (event("new-c", 3), False),
            (event("web"), False),
        ]
        for each, _ in events:
            call.says(RUNTIME, each, end=False)
        expected = [
            ("send", RUNTIME, each.SerializeToString()) if seen else ("drop", RUNTIME)
            for each, seen in events
        ]
        assert call.done == expected
        call.says(RUNTIME, b"\xff", end=False)
        assert call.done[-1][:2] == ("answer", StatusCode.INTERNAL)

    run(main)


@pytest.mark.parametrize("me", [caller("web-c"), caller("web-id"), caller(None, "u1")])
def test_own_pod(me: Connection) -> None:
    """The caller's pod is that of its container, or the one whose uid is in its cgroup."""

    async def main() -> None:
        scoped = Scoped(own_pod=True)
        ask = v1.ContainerStatusRequest
        assert scoped.asks("ContainerStatus", ask(container_id="web-c"), me).done[-1][0] == "end"
        told = denied(scoped.asks("ContainerStatus", ask(container_id="db-c"), me), "own_pod")
        assert denied(scoped.asks("ContainerStatus", ask(), me), "unknown_pod") == told
        assert "the caller's own pod" in told

    run(main)


@pytest.mark.parametrize("me", [caller(), caller("nobody"), caller(""), caller("web")])
def test_caller_in_no_pod(me: Connection) -> None:
    """A caller in no known pod is denied calls about pods, and allowed the others."""

    async def main() -> None:
        scoped = Scoped(own_pod=True)
        for path in READS:
            call = scoped.call(path, me)
            if METHODS[path].name in ("Version", "Status", "RuntimeConfig", "ImageFsInfo"):
                assert call.done == []
            elif "Pod" in path or "Container" in path:
                assert "runs in no pod" in denied(call, "own_pod")

    run(main)


def test_verbose() -> None:
    """A verbose request is forwarded; the verbose part of the response is removed."""

    async def main() -> None:
        scoped = Scoped(name="read-only")
        ask = v1.ContainerStatusRequest(container_id="anything", verbose=True)
        answer = v1.ContainerStatusResponse(status={"id": "c"}, info={"info": SECRET})
        shown = scoped.shows("ContainerStatus", ask, answer)
        assert shown == v1.ContainerStatusResponse(status={"id": "c"})

    run(main)


def test_answers_that_cannot_be_looked_at() -> None:
    """A response that cannot be read, or is too large, is not forwarded; nor are messages of a
    failed call. Compressed ones are."""

    async def main() -> None:
        def asked(method: str = "Status") -> Scripted:
            call = Scoped(name="read-only").asks(method, v1.StatusRequest())
            call.forget()
            return call

        for answers in ([b"\xff"], [b"", b""], []):
            call = asked()
            call.answers(*answers)
            assert [each[:2] for each in call.done] == [("answer", StatusCode.INTERNAL)]
        call = asked()
        call.limit_exceeded(RUNTIME)
        assert call.done[0][:2] == ("answer", StatusCode.RESOURCE_EXHAUSTED)
        call = asked()
        call.answers(v1.StatusResponse(info={"a": SECRET}), status=StatusCode.NOT_FOUND)
        assert call.done == [("drop", RUNTIME), ("end", RUNTIME)]
        call = asked()
        data = v1.StatusResponse(info={"a": SECRET}).SerializeToString()
        call.answers(gzip.compress(data), compressed=True)
        assert call.done == [("send", RUNTIME, b""), ("end", RUNTIME)]

    run(main)


@pytest.mark.parametrize("method", ["ListContainerStats", "StreamContainers", "GetContainerEvents"])
def test_failures_that_may_name_others(method: str) -> None:
    """Where a list or a stream fails, the client of a profile that restricts pods gets the code
    alone: the runtime's message may name a hidden pod."""

    async def main() -> None:
        kind = request_class(METHODS[f"/{V1}/{method}"])
        call = Scoped(namespaces=["shop"]).asks(method, kind())
        call.forget()
        call.answers(status=StatusCode.NOT_FOUND)
        assert [each[:2] for each in call.done] == [("answer", StatusCode.NOT_FOUND)]
        call = Scoped(name="read-only").asks(method, kind())
        call.forget()
        call.answers(status=StatusCode.NOT_FOUND)
        assert call.done == [("end", RUNTIME)]

    run(main)


def test_failures_of_what_may_be_seen() -> None:
    """Where a call about a visible pod fails, the runtime's message is forwarded."""

    async def main() -> None:
        request = v1.ContainerStatusRequest(container_id="web-c")
        call = Scoped(namespaces=["shop"]).asks("ContainerStatus", request)
        call.forget()
        call.answers(status=StatusCode.NOT_FOUND)
        assert call.done == [("end", RUNTIME)]

    run(main)


def test_large_answers() -> None:
    """A response that is processed in a thread is filtered too."""

    async def main() -> None:
        scoped = Scoped(namespaces=["shop"])
        hidden = [v1.Container(id=f"{n}-" + "x" * 60, pod_sandbox_id="db-id") for n in range(5000)]
        call = scoped.asks("ListContainers", v1.ListContainersRequest())
        call.forget()
        call.answers(v1.ListContainersResponse(containers=[*hidden, CONTAINER, *hidden]))
        await call.has_done(2)
        shown = v1.ListContainersResponse(containers=[CONTAINER]).SerializeToString()
        assert call.done == [("send", RUNTIME, shown), ("end", RUNTIME)]
        scoped.resources.message_executor.close()

    run(main)


def test_rules_in_addition() -> None:
    """Rules act on what the profile allows: after it on requests, before it on responses."""

    async def main() -> None:
        match = {"methods": ["ContainerStatus"]}
        rewrite = {
            "name": "it",
            "match": match,
            "rewrite": {"response": {"status.reason": '"by rule"', 'info["a"]': f'"{SECRET}"'}},
        }
        scoped = Scoped(rewrite, namespaces=["shop"])
        ask = v1.ContainerStatusRequest(container_id="web-c")
        answer = v1.ContainerStatusResponse(status={"id": "web-c"})
        shown = scoped.shows("ContainerStatus", ask, answer)
        assert shown == v1.ContainerStatusResponse(status={"id": "web-c", "reason": "by rule"})
        deny = {"name": "no", "match": match, "deny": {"code": "ABORTED"}}
        scoped = Scoped(deny, namespaces=["shop"])
        call = scoped.asks("ContainerStatus", ask)
        assert call.done[0][:2] == ("answer", StatusCode.ABORTED)
        assert call.call.denied == "rule"
        hidden = scoped.asks("ContainerStatus", v1.ContainerStatusRequest(container_id="db-c"))
        denied(hidden, "namespace")
        assert scoped.counts.matches["no", "deny", "enforce"] == 1

    run(main)


@pytest.mark.parametrize(
    ("allow", "told"),
    [
        ({"uid": [0, 12]}, None),
        ({"uid": [0]}, "callers with uid 12"),
        ({"uid": [12], "gid": [1]}, "callers with gid 34"),
        ({"executable": ["/bin/*"]}, "callers with executable /usr/bin/kubelet"),
        ({"unit": ["a.service"]}, "callers with unit unknown"),
        ({"kubelet": True}, "callers with kubelet False"),
    ],
)
def test_who_may_connect(allow: dict[str, Any], told: str | None) -> None:
    """The denial of a client that `allow` does not admit names the refused property."""
    assert rejection_reason(CallersSpec(**allow), CONNECTION.peer) == told


def test_refused_callers() -> None:
    """All calls of a client that `allow` does not admit are denied, and counted."""

    async def main() -> None:
        counts = Rules().counts
        policy = DenyAllPolicy("callers with uid 12", counts)
        assert policy.enforcing
        rules: Any = SimpleNamespace(policy=policy)
        for path in (f"/{V1}/Version".encode(), b"/x", b""):
            told = denied(Scripted(rules, path), "caller")
            assert told == "criproxy: this listener is not for callers with uid 12"
        listener = CONNECTION.listener
        assert counts.denied == {
            (listener, "Version", "caller"): 1,
            (listener, "other", "caller"): 2,
        }

    run(main)
