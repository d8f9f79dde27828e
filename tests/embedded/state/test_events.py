"""The stream of container events."""

import asyncio
from itertools import islice

import grpc
import pytest

from criproxy.client import CriClient
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.embedded.state.errors import CallError
from criproxy.embedded.state.events import QUEUE_EVENTS, EventHub
from tests.embedded.test_methods import run_container
from tests.support.waiting import LIMIT_SECONDS

CREATED, STARTED = v1.CONTAINER_CREATED_EVENT, v1.CONTAINER_STARTED_EVENT
STOPPED, DELETED = v1.CONTAINER_STOPPED_EVENT, v1.CONTAINER_DELETED_EVENT


def test_events_tell_a_pods_life_in_order(client: CriClient) -> None:
    """Each change of a sandbox or container is one event, in the order in which they happened."""
    events = client.GetContainerEvents()
    assert events.initial_metadata() is not None
    pod, container = run_container(client)
    client.StopContainer(container_id=container, timeout=1)
    client.RemovePodSandbox(pod_sandbox_id=pod)
    seen = [(event.container_id, event.container_event_type) for event in islice(events, 8)]
    events.cancel()
    assert seen == [
        (pod, CREATED),
        (pod, STARTED),
        (container, CREATED),
        (container, STARTED),
        (container, STOPPED),
        (pod, STOPPED),
        (container, DELETED),
        (pod, DELETED),
    ]


def test_event_has_the_state_just_after_it(client: CriClient) -> None:
    """An event brings the sandbox's status and its containers' as they are after the change."""
    events = client.GetContainerEvents()
    assert events.initial_metadata() is not None
    pod, container = run_container(client)
    (*_, started) = islice(events, 4)
    events.cancel()
    assert started.pod_sandbox_status.id == pod
    assert [(c.id, c.state) for c in started.containers_statuses] == [
        (container, v1.CONTAINER_RUNNING)
    ]


def test_every_stream_gets_every_event(runtime: EmbeddedRuntime, client: CriClient) -> None:
    """Two hundred streams on a few connections all get the same events."""
    clients = [CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) for _ in range(4)]
    streams = [clients[index % 4].GetContainerEvents() for index in range(200)]
    assert all(stream.initial_metadata() is not None for stream in streams)
    pod = client.RunPodSandbox(config={"metadata": {"name": "web"}}).pod_sandbox_id
    assert {next(stream).container_id for stream in streams} == {pod}
    for one in clients:
        one.close()


def test_slow_stream_is_cut_off() -> None:
    """A stream that lags by more than its queue ends with RESOURCE_EXHAUSTED."""

    async def main() -> None:
        hub = EventHub()
        subscription = hub.subscribe()
        for _ in range(QUEUE_EVENTS + 1):
            hub.publish(CREATED, "id", lambda: (v1.PodSandboxStatus(), []))
        with pytest.raises(CallError) as raised:
            await anext(subscription)
        assert raised.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED

    asyncio.run(main())


def test_closed_subscription_gets_no_more() -> None:
    """Without a subscription an event's statuses are not even built."""

    async def main() -> None:
        hub = EventHub()
        await hub.subscribe().aclose()
        hub.publish(CREATED, "id", lambda: pytest.fail("built for nobody"))

    asyncio.run(main())
