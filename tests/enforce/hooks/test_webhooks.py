"""Webhooks: real HTTP servers on loopback and on unix sockets."""

import asyncio
import base64
import gc
import json
import socketserver
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from criproxy.configtypes.values import Duration
from criproxy.enforce.hooks import webhooks
from criproxy.enforce.hooks.hook import HookDenial, make_hook
from criproxy.enforce.hooks.webhooks import Webhook, WebhookTarget, parse_target
from criproxy.rules.errors import EvaluationError
from criproxy.rules.image_names import image_of
from criproxy.rules.spec import HookSpec
from criproxy.wire.grpc import StatusCode
from tests.enforce.hook_calls import PB, UNKNOWN, create, facts, run
from tests.support.http_server import Handler, HttpServer, Response
from tests.support.waiting import LIMIT_SECONDS, wait_until

Respond = Callable[[dict[str, Any]], dict[str, Any] | bytes | tuple[int, bytes]]


class Server:
    """Answers each request by ``respond``: a response (the uid is added), a body, or a status."""

    def __init__(self, path: Path | None) -> None:
        self.asked: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.connections = 0
        self.respond: Respond = lambda review: {"allowed": True}
        outer = self

        class Counting(Handler):
            def setup(self) -> None:
                outer.connections += 1
                super().setup()

            def address_string(self) -> str:
                return "client"

        if path is None:
            self.server: socketserver.BaseServer = HttpServer(self._answer, Counting)
            self.url = f"http://127.0.0.1:{self.server.server_address[1]!r}"
        else:
            self.server = _UnixServer(str(path), Counting)
            self.server.answer = self._answer
            self.url = f"unix://{path}:"

    def _answer(self, request: Handler, body: bytes) -> Response:
        assert request.headers["content-type"] == "application/json"
        review = json.loads(body)
        self.paths.append(request.path)
        self.asked.append(review)
        answer = self.respond(review["request"])
        if isinstance(answer, dict):
            response = {"uid": review["request"]["uid"], **answer}
            answer = json.dumps({"response": response}).encode()
        status, content = answer if isinstance(answer, tuple) else (200, answer)
        return Response(content, status, {"location": "/elsewhere"})


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@pytest.fixture(params=["tcp", "unix"])
def server(request: pytest.FixtureRequest, short_dir: Path) -> Iterator[Server]:
    yield from _serve(short_dir / "hook.sock" if request.param == "unix" else None)


@pytest.fixture
def tcp() -> Iterator[Server]:
    yield from _serve(None)


def _serve(path: Path | None) -> Iterator[Server]:
    server = Server(path)
    thread = threading.Thread(target=server.server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.server.shutdown()
    thread.join()
    server.server.server_close()


def use(server: Server, test: Callable[[Webhook], Awaitable[Any]], path: str = "/check") -> Any:
    """Run a test with a webhook at the server."""

    async def main() -> Any:
        hook = Webhook(HookSpec(url=server.url + path))
        try:
            return await test(hook)
        finally:
            await hook.close()

    return run(main())


def ask(server: Server, message: Any, **known: Any) -> Any:
    return use(server, lambda hook: hook.request(message, facts(**known)))


def failure(server: Server, message: Any = None) -> str:
    with pytest.raises(EvaluationError) as caught:
        ask(server, create() if message is None else message)
    assert caught.value.reason == "webhook"
    assert "\n" not in caught.value.detail
    return caught.value.detail


@pytest.mark.parametrize("version", ["v1", "v1alpha2"])
def test_review(server: Server, version: str) -> None:
    """The request contains what is known of the call, in the form of an AdmissionReview."""
    message = create(version)
    known = {"metadata": {"k": "v", "cookie": "c"}, "image": image_of("nginx:1", "docker.io")}
    assert ask(server, message, version=version, **known) is message
    assert server.paths == ["/check"]
    (review,) = server.asked
    request = review.pop("request")
    assert review == {"apiVersion": "criproxy.io/v1", "kind": "CallReview"}
    assert request.pop("object")["config"]["image"]["image"] == "nginx:1"
    assert request.pop("uid")
    assert request == {
        "phase": "request",
        "service": f"runtime.{version}.RuntimeService",
        "method": "CreateContainer",
        "criVersion": version,
        "listener": "kubelet",
        "caller": {"pid": 812, "uid": 0, "gid": 0, "executable": "/usr/bin/kubelet"},
        "metadata": {"k": "v"},
        "pod": {
            "id": "s1",
            "namespace": "shop",
            "name": "web-0",
            "uid": "u1",
            "labels": {"app": "web"},
            "annotations": {"team": "blue"},
        },
        "container": {
            "id": "c1",
            "podId": "s1",
            "name": "nginx",
            "image": "nginx:1",
            "labels": {},
            "annotations": {},
        },
        "image": {
            "name": "docker.io/library/nginx:1",
            "registry": "docker.io",
            "repository": "library/nginx",
            "tag": "1",
            "digest": "",
            "id": "",
        },
    }


def test_response(tcp: Server) -> None:
    """The review of a response contains the request too."""
    pb = PB["v1"]
    tcp.respond = lambda review: {
        "allowed": True,
        "patch": [
            {
                "op": "replace",
                "path": "/containerId",
                "value": review["requestObject"]["podSandboxId"],
            }
        ],
    }
    known = facts(request=create())
    after = use(
        tcp, lambda hook: hook.response(pb.CreateContainerResponse(container_id="c"), known)
    )
    assert after == pb.CreateContainerResponse(container_id="s1")
    assert tcp.asked[0]["request"]["phase"] == "response"


def test_nothing_known(tcp: Server) -> None:
    """Unknown pods and containers are null; without a path in the URL, the path is the root."""
    known = facts()
    bare = type(known)(known.method_name, known.listener, known.caller)
    use(tcp, lambda hook: hook.request(create(), bare), path="")
    request = tcp.asked[0]["request"]
    assert request["pod"] is request["container"] is request["image"] is None
    assert tcp.paths == ["/"]


@pytest.mark.parametrize("encoded", [True, False])
def test_patch(server: Server, encoded: bool) -> None:
    """A patch is applied, base64 or not; unknown fields of the message stay."""
    patch: Any = [
        {"op": "add", "path": "/config/labels/team", "value": "blue"},
        {"op": "add", "path": "/config/mounts/-", "value": {"hostPath": "/x"}},
    ]
    if encoded:
        patch = base64.b64encode(json.dumps(patch).encode()).decode()
    server.respond = lambda review: {"allowed": True, "patchType": "JSONPatch", "patch": patch}
    message = create(mounts=1)
    message.config.mounts[0].MergeFromString(UNKNOWN)
    expected = type(message)()
    expected.CopyFrom(message)
    expected.config.labels["team"] = "blue"
    expected.config.mounts.add(host_path="/x")
    assert ask(server, message) == expected
    assert message != expected


@pytest.mark.parametrize("patch", [None, [], ""])
def test_no_patch(tcp: Server, patch: Any) -> None:
    """Without a patch, the same message object is forwarded."""
    tcp.respond = lambda review: {"allowed": True, "patch": patch}
    message = create()
    assert ask(tcp, message) is message


def test_large(tcp: Server) -> None:
    """A message of megabytes is reviewed and patched like any other."""
    message = create(mounts=20_000)
    tcp.respond = lambda review: {
        "allowed": True,
        "patch": [{"op": "replace", "path": "/config/mounts/19999/hostPath", "value": "/x"}],
    }
    after = ask(tcp, message)
    message.config.mounts[-1].host_path = "/x"
    assert after == message


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        ({"code": "RESOURCE_EXHAUSTED", "message": "m"}, StatusCode.RESOURCE_EXHAUSTED, "m"),
        ({"code": 8}, StatusCode.RESOURCE_EXHAUSTED, ""),
        ({"message": "m"}, StatusCode.PERMISSION_DENIED, "m"),
        (None, StatusCode.PERMISSION_DENIED, ""),
    ],
)
def test_deny(server: Server, status: Any, code: StatusCode, text: str) -> None:
    """A call that is not allowed is denied, with PERMISSION_DENIED if there is no code."""
    server.respond = lambda review: {"allowed": False, "status": status}
    with pytest.raises(HookDenial) as caught:
        ask(server, create())
    assert (caught.value.code, caught.value.message) == (code, text)


def test_credentials(tcp: Server) -> None:
    """A registry's credentials are not sent to the webhook, but reach the runtime."""
    pb = PB["v1"]
    message = pb.PullImageRequest(auth=pb.AuthConfig(username="u", password="hunter2"))
    tcp.respond = lambda review: {
        "allowed": True,
        "patch": [{"op": "add", "path": "/image", "value": {"image": "redis"}}],
    }
    after = ask(
        tcp, message, method="ImageService/PullImage", metadata={"authorization": "hunter2"}
    )
    assert after.auth.password == "hunter2"
    assert after.image.image == "redis"
    tcp.respond = lambda review: {"allowed": True}
    response = pb.PullImageResponse(image_ref="x")
    use(tcp, lambda hook: hook.response(response, facts(request=message)))
    assert "hunter2" not in json.dumps(tcp.asked)
    tcp.respond = lambda review: {
        "allowed": True,
        "patch": [{"op": "add", "path": "/auth", "value": {"username": "v"}}],
    }
    assert failure(tcp, message) == (
        "the patch: /auth holds credentials, which are not to be patched"
    )


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ((500, b"oops"), "the answer has HTTP status 500"),
        ((302, b""), "the answer has HTTP status 302"),
        ((204, b""), "the answer has HTTP status 204"),
        (b"", "the answer is no CallReview: "),
        (b"<html>", "the answer is no CallReview: "),
        (b"\xff", "the answer is no CallReview: "),
        (b"[" * 100_000, "the answer is no CallReview: "),
        (b"{}", "missing required field `response`"),
        ({}, "missing required field `allowed`"),
        ({"allowed": "yes"}, "Expected `bool`, got `str` - at `$.response.allowed`"),
        ({"allowed": True, "uid": "other"}, "the answer is to uid 'other', not to "),
        ({"allowed": False, "status": {"code": 403}}, "status.code: 403 is no gRPC status code"),
        ({"allowed": False, "status": {"code": "OK"}}, "status.code: OK refuses nothing"),
        ({"allowed": True, "patchType": "Merge", "patch": [1]}, "it has to be JSONPatch"),
        ({"allowed": True, "patch": "*"}, "the patch is no base64 of a list in JSON"),
        ({"allowed": True, "patch": "e30="}, "the patch is no base64 of a list in JSON"),
        ({"allowed": True, "patch": "W1td"}, "the patch is no base64 of a list in JSON"),
        ({"allowed": True, "patch": [5]}, "the patch: "),
        (
            {"allowed": True, "patch": [{"op": "replace", "path": "/nope", "value": 1}]},
            "the patch: ",
        ),
    ],
)
def test_wrong_answers(tcp: Server, answer: Any, text: str) -> None:
    """A response that cannot be used is an error with the reason; redirects are not followed."""
    tcp.respond = lambda review: answer
    assert text in failure(tcp)
    assert tcp.paths == ["/check"]


def test_large_answer(tcp: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A response with more bytes than the limit is not read to its end."""
    monkeypatch.setattr(webhooks, "ANSWER_LIMIT", 1000)
    tcp.respond = lambda review: b" " * 1001
    assert failure(tcp) == "the answer has over 1000 bytes"


def test_no_server(short_dir: Path) -> None:
    """The error for an unreachable server contains its URL."""
    for url in (f"unix://{short_dir}/none.sock", "http://127.0.0.1:1/x"):
        hook = Webhook(HookSpec(url=url))
        with pytest.raises(EvaluationError) as caught:
            run(hook.request(create(), facts()))
        assert caught.value.reason == "webhook"
        assert caught.value.detail.startswith(f"{url}: ")


def test_no_http() -> None:
    """A server that closes the connection, or does not speak HTTP, is an error."""

    async def main() -> None:
        for reply in (b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{}"):

            async def serve(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reply: bytes = reply
            ) -> None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(reply)
                writer.close()

            async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
                port = server.sockets[0].getsockname()[1]
                hook = Webhook(HookSpec(url=f"http://127.0.0.1:{port}/"))
                with pytest.raises(EvaluationError) as caught:
                    await hook.request(create(), facts())
                assert caught.value.reason == "webhook"
                await hook.close()

    run(main())


def test_slow_server(server: Server) -> None:
    """A timeout ends a request; the next one uses another connection."""
    gate = threading.Event()

    def respond(review: Any) -> dict[str, Any]:
        gate.wait(LIMIT_SECONDS)
        return {"allowed": True}

    server.respond = respond

    async def test(hook: Webhook) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await hook.request(create(), facts())
        gate.set()
        await hook.request(create(), facts())

    use(server, test)


def test_connections(server: Server) -> None:
    """Sequential requests share a connection; concurrent ones use several, up to the limit."""

    async def test(hook: Webhook) -> None:
        for _ in range(5):
            await hook.request(create(), facts())
        assert server.connections == 1
        await asyncio.gather(*(hook.request(create(), facts()) for _ in range(100)))
        assert server.connections <= webhooks.CONNECTIONS

    use(server, test)


def test_collected(tcp: Server) -> None:
    """A webhook without references closes its connections."""

    async def main() -> None:
        hook = Webhook(HookSpec(url=tcp.url))
        await hook.request(create(), facts())
        pool = hook._pool
        assert pool is not None
        assert pool.connections
        del hook
        gc.collect()
        await asyncio.to_thread(wait_until, lambda: not pool.connections, "closed connections")

    run(main())


def test_uvloop(server: Server) -> None:
    """Webhooks work on uvloop."""

    async def main() -> None:
        hook = Webhook(HookSpec(url=server.url + "/"))
        await hook.request(create(), facts())
        await hook.close()

    uvloop.run(main())


def test_environment(tcp: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies of the environment are not used."""
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    ask(tcp, create())


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://127.0.0.1:80/x?y=1", WebhookTarget("http://127.0.0.1:80/x?y=1")),
        ("https://[::1]/x", WebhookTarget("https://[::1]/x")),
        ("unix:///run/a.sock", WebhookTarget("http://localhost/", "/run/a.sock")),
        ("unix:///run/a.sock:/b/c", WebhookTarget("http://localhost/b/c", "/run/a.sock")),
        ("unix:///run/a.sock:", None),
        ("unix://run/a.sock", None),
        ("unix:///", None),
        ("unix:///" + "a" * 107, None),
        ("ftp://x/", None),
        ("http:///x", None),
        ("127.0.0.1:80", None),
        ("http://u:p@x/", None),
        ("http://x:99999/", None),
        ("http://x:y/", None),
        ("http://x:0/", None),
        ("http://x/#f", None),
        ("http://[::1/", None),
        ("http://x/a b", None),
        ("http://ü/", None),
    ],
)
def test_urls(url: str, target: WebhookTarget | None) -> None:
    """A URL that cannot be used is an error when the hook is created."""
    if target is None:
        with pytest.raises(ValueError, match=r".+") as caught:
            make_hook(HookSpec(url=url), Path())
        assert "p@" not in str(caught.value)
    else:
        assert parse_target(url) == target


def test_timeout() -> None:
    """The hook's timeout is the rule's."""
    hook = Webhook(HookSpec(url="http://x/", timeout=Duration(5)))
    assert (hook.timeout, hook.has_request, hook.has_response) == (5.0, True, True)
