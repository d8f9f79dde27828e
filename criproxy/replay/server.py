"""A runtime that answers from a cassette, on a unix socket."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from criproxy.concurrency.tasks import Tasks
from criproxy.cri.messages import response_class
from criproxy.cri.methods import ENDLESS, METHODS, Method
from criproxy.embedded.listening import serve_methods
from criproxy.relay.endpoints import Endpoint
from criproxy.replay.matching import parse_request
from criproxy.replay.playback import Choice, NotRecordedError, Playback
from criproxy.replay.recorded_calls import RecordedCalls, RecordedEvent

_TICK: Final = 0.05
"""Seconds between looks for events that are due."""

_QUEUED_EVENTS: Final = 10_000
"""Events that wait for a client which reads too slowly; then its stream ends."""

_Context = grpc.aio.ServicerContext[bytes, bytes]


class ReplayServer:
    """``await start()``, then ``await stop()``."""

    def __init__(
        self,
        endpoint: Endpoint,
        recorded: RecordedCalls,
        pace: float,
        missed: Callable[[str], None],
    ) -> None:
        """``pace`` is what recorded times are multiplied by, 0 for none. ``missed`` is called with
        a line about each call that was never recorded."""
        self.endpoint = endpoint
        self._recorded = recorded
        self._pace = pace
        self._missed = missed
        self._playback = Playback(recorded, pace, time.monotonic())
        self._subscribers: set[asyncio.Queue[RecordedEvent]] = set()
        self._server: grpc.aio.Server | None = None
        self._tasks = Tasks(lambda name, error: missed(f"{name} failed: {error!r}"))

    async def start(self) -> None:
        """Listen. Raises as :func:`criproxy.embedded.listening.serve_methods` does."""
        handlers: dict[Method, grpc.RpcMethodHandler[Any, Any]] = {}
        for method in METHODS.values():
            if method.name.encode() in ENDLESS:
                handlers[method] = grpc.unary_stream_rpc_method_handler(self._events(method))
            elif method.server_streaming:
                handlers[method] = grpc.unary_stream_rpc_method_handler(self._stream(method))
            else:
                handlers[method] = grpc.unary_unary_rpc_method_handler(self._unary(method))
        self._server = await serve_methods(self.endpoint, handlers)
        self._tasks.start(self._play_events(), "playing events")

    async def stop(self) -> None:
        """Stop listening, end all calls, and remove the socket."""
        await self._tasks.cancel()
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def _unary(self, method: Method) -> Callable[[bytes, _Context], Awaitable[bytes]]:
        async def answer(request: bytes, context: _Context) -> bytes:
            choice = await self._choose(method, request, context)
            await self._wait(choice, choice.recorded.call.ended)
            responses = choice.recorded.call.responses
            if not responses:
                await self._end(choice, context)
            (data,) = self._recorded.index.messages(responses[:1])
            response = self._response(method, choice, data)
            self._done(choice)
            return response

        return answer

    def _stream(self, method: Method) -> Callable[[bytes, _Context], AsyncIterator[bytes]]:
        async def answer(request: bytes, context: _Context) -> AsyncIterator[bytes]:
            choice = await self._choose(method, request, context)
            began = time.monotonic()
            for part in choice.recorded.call.responses:
                await self._wait(choice, part.at, began)
                (data,) = self._recorded.index.messages([part])
                yield self._response(method, choice, data)
            await self._wait(choice, choice.recorded.call.ended, began)
            self._done(choice)
            await self._end(choice, context)

        return answer

    def _events(self, method: Method) -> Callable[[bytes, _Context], AsyncIterator[bytes]]:
        async def answer(request: bytes, context: _Context) -> AsyncIterator[bytes]:
            if not self._recorded.has(method):
                await self._refuse(
                    context, NotRecordedError(f"the cassette has no {method.name}", True)
                )
            queue: asyncio.Queue[RecordedEvent] = asyncio.Queue(_QUEUED_EVENTS)
            self._subscribers.add(queue)
            try:
                await context.send_initial_metadata(())
                while True:
                    event = await queue.get()
                    (data,) = self._recorded.index.messages([event.part])
                    yield _encoded(method, self._playback.event(event, data))
                    if queue not in self._subscribers:
                        await context.abort(
                            grpc.StatusCode.RESOURCE_EXHAUSTED, "events are read too slowly"
                        )
            finally:
                self._subscribers.discard(queue)

        return answer

    async def _choose(self, method: Method, data: bytes, context: _Context) -> Choice:
        try:
            request = parse_request(method, data)
            return self._playback.choose(method, request, time.monotonic())
        except DecodeError as error:
            details = f"grpc: error unmarshalling request: {error}"
            await context.abort(grpc.StatusCode.INTERNAL, details)
            raise
        except NotRecordedError as error:
            await self._refuse(context, error)
            raise

    async def _refuse(self, context: _Context, error: NotRecordedError) -> None:
        self._missed(str(error))
        code = grpc.StatusCode.FAILED_PRECONDITION
        if error.unimplemented:
            code = grpc.StatusCode.UNIMPLEMENTED
        await context.abort(code, f"criproxy replay: {error}")

    async def _wait(self, choice: Choice, until: int, began: float | None = None) -> None:
        """Wait as long as the recorded call took up to a time, in nanoseconds.

        A call that hung waits until its client gives up.
        """
        if not choice.recorded.is_answered and until == choice.recorded.call.ended:
            await asyncio.get_running_loop().create_future()
        seconds = (until - choice.recorded.call.began) / 1e9 * self._pace
        passed = 0.0 if began is None else time.monotonic() - began
        if seconds > passed:
            await asyncio.sleep(seconds - passed)

    async def _end(self, choice: Choice, context: _Context) -> None:
        """End a call as it was recorded, unless that was with OK."""
        end = choice.recorded.call.end
        if end is None or end.code == "OK":
            return
        code = getattr(grpc.StatusCode, end.code, grpc.StatusCode.UNKNOWN)
        await context.abort(code, self._playback.identities.text_for_client(end.message))

    def _response(self, method: Method, choice: Choice, data: bytes) -> bytes:
        """Return a recorded response as the client's version of the API has it."""
        message = self._playback.answer(choice, data)
        recorded = choice.recorded.method
        if message is None and recorded.api_version == method.api_version:
            return data
        if message is None:
            message = response_class(recorded).FromString(data)
        return _encoded(method, message)

    def _done(self, choice: Choice) -> None:
        self._publish(self._playback.done(choice, time.monotonic()))

    async def _play_events(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            self._publish(self._playback.due_events(time.monotonic()))

    def _publish(self, events: Iterable[RecordedEvent]) -> None:
        for event in events:
            for queue in tuple(self._subscribers):
                try:
                    queue.put_nowait(event)
                except asyncio.QueueFull:
                    self._subscribers.discard(queue)


def _encoded(method: Method, message: Message) -> bytes:
    """Encode a response, of either version, as the version of ``method`` has it."""
    if method.name == "Version":
        message.runtime_api_version = method.api_version  # type: ignore[attr-defined]  # it has one
    data: bytes = message.SerializeToString()
    kind = response_class(method)
    if isinstance(message, kind):
        return data
    converted = kind.FromString(data)
    converted.DiscardUnknownFields()
    return converted.SerializeToString()
