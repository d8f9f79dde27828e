"""The CRI client, on an embedded runtime."""

import math
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.errors import EndpointError
from criproxy.relay.endpoints import Endpoint
from tests.support.waiting import LIMIT_SECONDS


@pytest.fixture
def runtime(short_dir: Path) -> Iterator[EmbeddedRuntime]:
    with EmbeddedRuntime(f"unix://{short_dir}/cri.sock") as runtime:
        yield runtime


@pytest.fixture
def client(runtime: EmbeddedRuntime) -> Iterator[CriClient]:
    with CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as client:
        yield client


def test_request_can_be_given_whole_or_as_fields(client: CriClient) -> None:
    """A call takes a request message, or its fields, in which messages may be dicts."""
    config = {"metadata": {"name": "web"}, "labels": {"app": "web"}}
    client.RunPodSandbox(config=config)
    wanted = client.messages.PodSandboxFilter(label_selector={"app": "web"})
    request = client.messages.ListPodSandboxRequest(filter=wanted)
    assert len(client.ListPodSandbox(request).items) == 1
    assert client.call("ListPodSandbox", filter=wanted) == client.ListPodSandbox(request)


def test_request_and_fields_together_are_refused(client: CriClient) -> None:
    """Giving both is a TypeError, because one of them would be lost."""
    with pytest.raises(TypeError, match="not both"):
        client.Version(client.messages.VersionRequest(), version="v1")


def test_unknown_names_are_refused(client: CriClient) -> None:
    """An unknown method is an AttributeError and an unknown field a ValueError."""
    with pytest.raises(AttributeError, match="CRI v1 has no method 'Nonsense'"):
        _ = client.Nonsense
    with pytest.raises(ValueError, match="nonsense"):
        client.Version(nonsense=1)


def test_method_of_another_version_is_unknown(runtime: EmbeddedRuntime) -> None:
    """A v1alpha2 client does not have the methods that only v1 has."""
    with CriClient(runtime.endpoint, "v1alpha2", timeout=LIMIT_SECONDS) as client:
        assert client.Version().runtime_api_version == "v1alpha2"
        with pytest.raises(AttributeError, match="CRI v1alpha2"):
            _ = client.GetContainerEvents


def test_bad_arguments_are_refused() -> None:
    """An unknown API version and an endpoint that is no unix socket's are errors at once."""
    with pytest.raises(ValueError, match="one of v1, v1alpha2"):
        CriClient("/tmp/x.sock", "v2")
    with pytest.raises(EndpointError):
        CriClient("tcp://127.0.0.1:1")


def test_deadline_of_a_call_goes_before_the_clients(short_dir: Path) -> None:
    """A call's own deadline holds, whatever the client's timeout is, inf meaning none."""
    with (
        EmbeddedRuntime(str(short_dir / "cri.sock"), latency="1h") as runtime,
        CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as client,
    ):
        with pytest.raises(grpc.RpcError) as raised:
            client.Version(deadline=0.01)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    with (
        EmbeddedRuntime(str(short_dir / "cri.sock"), latency="50ms") as runtime,
        CriClient(runtime.endpoint, timeout=0.01) as client,
    ):
        assert client.Version(deadline=math.inf).version
        assert client.Version(deadline=LIMIT_SECONDS).version


def test_stream_has_no_deadline_and_can_be_cancelled(runtime: EmbeddedRuntime) -> None:
    """A streaming call outlives the client's timeout until it is cancelled."""
    with CriClient(runtime.endpoint, timeout=0.001) as client:
        events = client.GetContainerEvents()
        assert events.time_remaining() is None
        assert events.initial_metadata() is not None
        events.cancel()
        with pytest.raises(grpc.RpcError) as raised:
            next(events)
        assert raised.value.code() is grpc.StatusCode.CANCELLED


def test_raw_callable_has_all_of_grpcio(client: CriClient) -> None:
    """The raw callable gives with_call and future, with metadata and trailers."""
    request = client.messages.VersionRequest()
    metadata = (("x-test", "1"), ("x-test-bin", b"\xff"))
    response, call = client.raw("Version").with_call(
        request, timeout=LIMIT_SECONDS, metadata=metadata
    )
    assert (response.version, call.code()) == ("0.1.0", grpc.StatusCode.OK)
    assert client.raw("Version").future(request).result() == response
    assert client.Version(metadata=metadata) == response


def test_each_client_has_its_own_connection(runtime: EmbeddedRuntime) -> None:
    """Closing one client leaves another to the same endpoint alone."""
    with CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as first:
        with CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as second:
            assert second.Version() == first.Version()
        assert first.Version().version
    with pytest.raises(ValueError, match="closed"):
        second.Version()


@pytest.mark.parametrize("name", ["a b.sock", "100%.sock", "é.sock", "a?b#c.sock"])
def test_any_path_can_be_dialled(short_dir: Path, name: str) -> None:
    """A path with characters that mean something in a URI is dialled as it is."""
    endpoint = Endpoint(str(short_dir / name))
    with EmbeddedRuntime(endpoint), CriClient(endpoint, timeout=LIMIT_SECONDS) as client:
        assert client.Version().version
