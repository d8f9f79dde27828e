"""Distributes container events to every GetContainerEvents stream."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final, Self, TypeAlias

import grpc

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.embedded.state.errors import CallError

QUEUE_EVENTS: Final = 4096
"""Maximum number of queued events of a stream; a slower one is ended."""

Statuses: TypeAlias = tuple[v1.PodSandboxStatus, Iterable[v1.ContainerStatus]]


class Subscription:
    """The events of one stream, in order, from its creation until it is closed."""

    def __init__(self, subscriptions: "set[Subscription]") -> None:
        self._queue: asyncio.Queue[v1.ContainerEventResponse] = asyncio.Queue(QUEUE_EVENTS)
        self._lagging = False
        self._subscriptions = subscriptions
        subscriptions.add(self)

    def offer(self, event: v1.ContainerEventResponse) -> None:
        """Queue an event, or mark the stream as lagging if its queue is full."""
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self._lagging = True

    async def aclose(self) -> None:
        """End the subscription."""
        self._subscriptions.discard(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> v1.ContainerEventResponse:
        """Wait for the next event. Raises CallError when the queue has overflowed."""
        if self._lagging:
            raise CallError(grpc.StatusCode.RESOURCE_EXHAUSTED, "event stream reads too slowly")
        return await self._queue.get()


class EventHub:
    """Passes each event to all subscriptions; without any, no event is built."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()

    def subscribe(self) -> Subscription:
        """Subscribe to the events from now on."""
        return Subscription(self._subscriptions)

    def publish(
        self, kind: v1.ContainerEventType, id_: str, statuses: Callable[[], Statuses]
    ) -> None:
        """Publish that ``kind`` happened to the container or sandbox ``id_``.

        ``statuses`` returns the pod's state after it, and is called only with subscribers.
        """
        if not self._subscriptions:
            return
        sandbox, containers = statuses()
        event = v1.ContainerEventResponse(
            container_id=id_,
            container_event_type=kind,
            created_at=time.time_ns(),
            pod_sandbox_status=sandbox,
            containers_statuses=containers,
        )
        for subscription in self._subscriptions:
            subscription.offer(event)
