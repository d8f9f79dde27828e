"""Handles one held call: evaluates rules on its messages and commands the stream.

The request of a CRI method is one message; rules are evaluated when it is complete, and on the
response when that is complete, or message by message where the response is a stream. The message
types of methods outside the CRI are not known: their messages are not read, and rules act when the
call is opened and when its response arrives.

A call that rules keep waiting is answered with DEADLINE_EXCEEDED at its deadline, since the
runtime, which would do that, may not have been asked.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from google.protobuf.message import Message

from criproxy.concurrency.steps import StepRunner, Steps
from criproxy.enforce.evaluation.effect_executor import EffectExecutor
from criproxy.enforce.evaluation.effects import LocalReply
from criproxy.enforce.evaluation.evaluation import RuleEvaluation
from criproxy.enforce.evaluation.payloads import HeldMessage, Payload, uncompressed
from criproxy.enforce.resources import Resources
from criproxy.rules.errors import EvaluationError
from criproxy.wire.grpc import StatusCode, parse_status
from criproxy.wire.hpack.decoder import Header
from criproxy.wire.intercept.stream_handler import HeldStream
from criproxy.wire.reading.connection import Side

_HIDDEN_FAILURE: Final = (
    "criproxy: the runtime failed; what it says of that is not shown at a listener whose profile "
    "bounds pods, since it may be about others"
)


@dataclass(frozen=True, slots=True, eq=False)
class MessageTypes:
    """Classes of a method's messages; the defaults are for methods outside the CRI."""

    request: type[Message] | None = None
    response: type[Message] | None = None
    streaming: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class HoldPlan:
    """The held directions of a call, and the classes of its messages.

    ``encoding`` is the request's grpc-encoding; ``updates_pod_cache``: whether the pod cache reads
    the call's messages.
    """

    messages: MessageTypes
    request_held: bool
    response_held: bool
    encoding: bytes
    updates_pod_cache: bool


class HeldCall:
    """Handles a held stream (a :class:`criproxy.wire.intercept.stream_handler.StreamHandler`)."""

    def __init__(
        self,
        resources: Resources,
        stream: HeldStream,
        plan: HoldPlan,
        evaluation: RuleEvaluation,
        executor: EffectExecutor,
        deadline: float | None,
    ) -> None:
        """``deadline`` is the call's, in seconds of the resources' clock; None without one."""
        self._resources = resources
        self._stream = stream
        self._plan = plan
        self._evaluation = evaluation
        self._executor = executor
        self._deadline = deadline
        self._runner: StepRunner | None = StepRunner(self)
        """None when nothing is left to do: each refers to the other, and without the runner what
        was held is freed at once, not when the garbage collector runs."""
        self._requests: list[Payload] = []
        self._responses: list[Payload] = []
        self._request_complete = False
        """Whether the client has ended the request."""
        self._request_released = False
        """Whether the request has been forwarded to the runtime."""
        self._not_held = "held_limit", "the request is not complete"
        """Why the request cannot be read if it is not complete: a reason and a detail."""

    # Events of the held stream.

    def opened(self) -> None:
        """Evaluate the rules, unless the request's message has to be complete first."""
        runner = self._runner
        if runner is None:
            return
        if not self._plan.request_held or self._plan.messages.request is None:
            runner.run(self._forward_request())

    def message(self, side: Side, payload: bytes, compressed: bool) -> None:
        """Evaluate the rules on a message of a response stream; collect other messages."""
        runner = self._runner
        if runner is None:
            return
        message = Payload(payload, compressed)
        if side is Side.CLIENT:
            self._requests.append(message)
        elif self._plan.messages.streaming:
            runner.run(self._forward_stream_message(message))
        else:
            self._responses.append(message)

    def ended(self, side: Side, trailers: list[Header]) -> None:
        """Evaluate the rules on the direction that is complete."""
        runner = self._runner
        if runner is None:
            return
        if side is Side.RUNTIME:
            runner.run(self._forward_response(trailers))
            return
        self._request_complete = True
        if self._plan.messages.request is not None:
            runner.run(self._forward_request())

    def limit_exceeded(self, side: Side, reason: str, detail: str) -> None:
        """Evaluate the rules without the message and without waiting; forward the rest unheld."""
        runner = self._runner
        if runner is None:
            return
        error = partial(EvaluationError, reason, detail)
        self._not_held = reason, detail
        with runner.without_waiting(error):
            if side is Side.RUNTIME:
                runner.run(self._forward_large_response(error()))
            elif not self._request_released:
                runner.run(self._forward_request())

    def closed(self) -> None:
        """Stop the evaluation, and release the slots that the call has acquired."""
        self._finish()
        self._executor.release_slots()

    # Steps.

    def _forward_request(self) -> Steps[None]:
        """Evaluate the rules on the request, and forward it to the runtime."""
        if self._request_released:
            return
        held = self._held_request()
        yield from self._evaluation.request(held)
        if held.is_readable:
            self._requests = [held.payload]
        for payload in self._requests:
            self._stream.send(Side.CLIENT, payload.data, payload.compressed)
        self._request_released = True
        if self._request_complete:
            self._stream.end(Side.CLIENT)
        else:
            self._stream.release(Side.CLIENT)
        if not self._plan.updates_pod_cache and not self._evaluation.acts_on_response:
            self._stream.release(Side.RUNTIME)
            self._finish()
            if not self._executor.slots:
                self._stream.detach()

    def _held_request(self) -> HeldMessage:
        message_class = self._plan.messages.request
        if message_class is None:
            return HeldMessage.unreadable("decode", "not a method of the CRI")
        if not self._plan.request_held:
            return HeldMessage.unreadable("decode", "the request was not held")
        if not self._request_complete:
            return HeldMessage.unreadable(*self._not_held)
        if len(self._requests) != 1:
            count = len(self._requests)
            return HeldMessage.unreadable("decode", f"a unary request of {count} messages")
        return self._hold(self._requests[0], message_class, self._plan.encoding)

    def _forward_stream_message(self, payload: Payload) -> Steps[None]:
        """Evaluate the rules on a message of a response stream, and forward it to the client."""
        held = self._held_response(payload)
        truncation = yield from self._evaluation.response(held, last=False, ok=True)
        if held.dropped:
            self._stream.drop(Side.RUNTIME)
        else:
            self._send(held, payload)
        if truncation is not None:
            raise truncation.reply

    def _forward_response(self, trailers: list[Header]) -> Steps[None]:
        """Evaluate the rules on the response's end, and on its message if it is not a stream."""
        ok = _is_ok(trailers)
        if ok and self._plan.updates_pod_cache:
            yield from self._update_pod_cache()
        payloads, self._responses = self._responses, []
        held: HeldMessage | None = None
        if ok and not self._plan.messages.streaming:
            held = self._held_unary_response(payloads)
        yield from self._evaluation.response(held, last=True, ok=ok)
        message_filter = self._evaluation.message_filter
        if not ok and message_filter is not None and message_filter.hides_failures:
            raise LocalReply(_status_code(trailers), _HIDDEN_FAILURE)
        if held is not None and held.is_readable:
            self._send(held, payloads[0])
        elif message_filter is not None:  # messages of a failed call have not been filtered
            for _ in payloads:
                self._stream.drop(Side.RUNTIME)
        else:
            self._send_all(payloads)
        self._stream.end(Side.RUNTIME)
        self._finish()

    def _forward_large_response(self, error: EvaluationError) -> Steps[None]:
        """Forward the response, which is too large to be held."""
        self._evaluation.response_not_held(error)
        self._send_all(self._responses)
        self._stream.release(Side.RUNTIME)
        self._finish()
        yield from ()

    def _held_unary_response(self, payloads: list[Payload]) -> HeldMessage:
        if len(payloads) != 1:
            return HeldMessage.unreadable("decode", f"a unary response of {len(payloads)} messages")
        return self._held_response(payloads[0])

    def _held_response(self, payload: Payload) -> HeldMessage:
        message_class = self._plan.messages.response
        if message_class is None:
            return HeldMessage.unreadable("decode", "not a method of the CRI")
        return self._hold(payload, message_class, None)

    def _hold(
        self, payload: Payload, message_class: type[Message], encoding: bytes | None
    ) -> HeldMessage:
        resources = self._resources
        return HeldMessage(
            payload, message_class, encoding, resources.held_limit, resources.message_executor
        )

    def _send(self, held: HeldMessage, original: Payload) -> None:
        payload = held.payload if held.is_readable else original
        self._stream.send(Side.RUNTIME, payload.data, payload.compressed)

    def _send_all(self, payloads: list[Payload]) -> None:
        for payload in payloads:
            self._stream.send(Side.RUNTIME, payload.data, payload.compressed)

    def _update_pod_cache(self) -> Steps[None]:
        """Update the pod cache from the request, as forwarded, and the response."""
        if len(self._requests) != 1 or len(self._responses) != 1:
            return
        request, response = self._requests[0], self._responses[0]
        size = request.size + response.size
        run = self._resources.message_executor.run
        try:
            update, *messages = yield from run(size, self._decode_update, request, response)
            update()
            self._resources.share_update(self._stream.path, *messages)
        except Exception as error:  # the pod stays unknown; the call is forwarded
            self._resources.log.warning("not remembered", detail=repr(error))

    def _decode_update(
        self, request: Payload, response: Payload
    ) -> tuple[Callable[[], None], bytes, bytes]:
        """Return a function that updates the pod cache, and the uncompressed messages."""
        limit = self._resources.held_limit
        asked = uncompressed(request, self._plan.encoding, limit)
        answered = uncompressed(response, None, limit)
        path = self._stream.path
        return self._resources.pod_cache.decode_update(path, asked, answered), asked, answered

    # Owner of the step runner.

    def start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """See StepOwner."""
        return self._resources.tasks.start(work, "held call")

    def steps_failed(self, error: Exception) -> None:
        """Answer the call with the LocalReply, or with INTERNAL for any other exception."""
        if not isinstance(error, LocalReply):
            self._resources.log.warning("handling failed", exc_info=error)
            error = LocalReply(StatusCode.INTERNAL, "criproxy: internal error")
        error.__traceback__ = None  # its frames refer to the reply: only a collection would free it
        self._reply(error)

    def time_left(self) -> float | None:
        """Return the seconds until the call's deadline."""
        return None if self._deadline is None else self._deadline - self._resources.clock()

    def deadline_passed(self) -> None:
        """Answer the call, whose deadline has passed while rules kept it waiting."""
        self._reply(
            LocalReply(StatusCode.DEADLINE_EXCEEDED, "criproxy: deadline exceeded while held")
        )

    def wait_began(self) -> None:
        """See StepOwner."""
        self._executor.wait_began()

    def wait_ended(self) -> None:
        """See StepOwner."""
        self._executor.wait_ended()

    def _reply(self, reply: LocalReply) -> None:
        if self._runner is not None:
            self._finish()
            self._stream.reply(reply.code, reply.message)

    def _finish(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.stop()


def _status_code(trailers: list[Header]) -> StatusCode:
    """Return the status code of a failed response."""
    return next(
        (parse_status(value) for name, value in trailers if name == b"grpc-status"),
        StatusCode.UNKNOWN,
    )


def _is_ok(trailers: list[Header]) -> bool:
    """Return whether a response ended with status OK."""
    return any(
        name == b"grpc-status" and parse_status(value) is StatusCode.OK for name, value in trailers
    )
