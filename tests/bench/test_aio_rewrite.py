"""The proxy on grpc.aio whose interceptor rewrites Version."""

import sys
from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest

from bench import version
from criproxy.cri.pb.runtime_v1_pb2 import VersionRequest, VersionResponse
from tests.support.process import Process
from tests.support.waiting import LIMIT_SECONDS, wait_until


class Echo(grpc.GenericRpcHandler):
    """Version answers with the version it was asked with; anything else with its own bytes."""

    def service(self, details):
        def answer(message, context):
            if details.method != version.PATH:
                return message
            asked = VersionRequest.FromString(message).version
            if asked == "none":
                context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
            return VersionResponse(version=asked).SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    directory = tmp_path_factory.mktemp("a")
    listen, upstream = directory / "l.sock", directory / "u.sock"
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((Echo(),))
    server.add_insecure_port(f"unix:{upstream}")
    server.start()
    argv = [sys.executable, "-m", "bench.aio_rewrite", str(listen), str(upstream)]
    with Process(argv, output=directory / "proxy"):
        wait_until(listen.exists, "the proxy")
        with grpc.insecure_channel(
            f"unix:{listen}", [("grpc.default_authority", "localhost")]
        ) as channel:
            yield channel
    server.stop(None).wait()


def ask(channel: grpc.Channel, asked: str) -> str:
    call = channel.unary_unary(
        version.PATH, VersionRequest.SerializeToString, VersionResponse.FromString
    )
    return call(VersionRequest(version=asked), timeout=LIMIT_SECONDS, wait_for_ready=True).version


def test_the_kubelet_s_version_is_rewritten(proxied: grpc.Channel) -> None:
    """What a kubelet asks with arrives longer; another version arrives as it was sent."""
    assert ask(proxied, version.KUBELET) == version.KUBELET + version.SUFFIX
    assert ask(proxied, "9.9.9") == "9.9.9"


def test_what_is_not_rewritten_passes(proxied: grpc.Channel) -> None:
    """Another method's bytes and a failure's status pass the interceptor."""
    echo = proxied.unary_unary("/s/Echo", None, None)
    assert echo(b"\xff\x00", timeout=LIMIT_SECONDS, wait_for_ready=True) == b"\xff\x00"
    with pytest.raises(grpc.RpcError) as failure:
        ask(proxied, "none")
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND
    assert failure.value.details() == "no such thing"
