"""One held call: what comes on its stream, led through the walk, and what goes on from there.

The request of a CRI method is one message; it is looked at when it is complete, and so is the
response, unless that is a stream: then it is looked at message by message. Of a method that the
CRI does not have nothing is known, its messages are not looked at, and nothing waits for them to
be complete: the rules act when the call is opened, and as its answer comes.

A call that rules have waiting is answered with DEADLINE_EXCEEDED when its deadline passes, since
the runtime, which would do that, may not have been asked.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from google.protobuf.message import Message

from criproxy.concurrency.steps import StepRunner, Steps
from criproxy.enforce.evaluation.effect_executor import EffectExecutor
from criproxy.enforce.evaluation.effects import LocalReply
from criproxy.enforce.evaluation.evaluation import RuleEvaluation
from criproxy.enforce.evaluation.payloads import HeldMessage, Payload, inflated
from criproxy.enforce.resources import Resources
from criproxy.rules.errors import EvaluationError
from criproxy.wire.grpc import StatusCode, parse_status
from criproxy.wire.hpack.decoder import Header
from criproxy.wire.intercept.stream_handler import HeldStream
from criproxy.wire.reading.connection import Side

_HIDDEN: Final = (
    "criproxy: the runtime failed; what it says of that is not shown at a listener whose profile "
    "bounds pods, since it may be about others"
)


@dataclass(frozen=True, slots=True, eq=False)
class MessageTypes:
    """What is known of a method's messages: nothing outside the CRI, where a stream is possible."""

    request: type[Message] | None = None
    response: type[Message] | None = None
    streaming: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class HoldPlan:
    """What is known beforehand of a call, and what is held of it.

    ``encoding`` is the request's grpc-encoding; ``learns`` tells that the memory wants the call.
    """

    messages: MessageTypes
    request_held: bool
    response_held: bool
    encoding: bytes
    learns: bool


class HeldCall:
    """Handles a held stream (a :class:`criproxy.wire.intercept.stream_handler.StreamHandler`)."""

    def __init__(
        self,
        resources: Resources,
        stream: HeldStream,
        shape: HoldPlan,
        walk: RuleEvaluation,
        deeds: EffectExecutor,
        deadline: float | None,
    ) -> None:
        """``deadline`` is the call's, in seconds of the resources' clock; None without one."""
        self._resources = resources
        self._stream = stream
        self._shape = shape
        self._walk = walk
        self._deeds = deeds
        self._deadline = deadline
        self._runner = StepRunner(self)
        self._requests: list[Payload] = []
        self._responses: list[Payload] = []
        self._complete = False
        """Whether the request has ended."""
        self._released = False
        """Whether the runtime has been asked."""
        self._done = False
        """Whether there is nothing left to be handled."""

    # What the stream tells.

    def opened(self) -> None:
        """Begin, unless the request's message is to be waited for."""
        if not self._shape.request_held or self._shape.messages.request is None:
            self._runner.run(self._ask())

    def message(self, side: Side, payload: bytes, compressed: bool) -> None:
        """Take a message: of a stream's responses each is looked at, else they are gathered."""
        if self._done:
            return
        message = Payload(payload, compressed)
        if side is Side.CLIENT:
            self._requests.append(message)
        elif self._shape.messages.streaming:
            self._runner.run(self._answer_with(message))
        else:
            self._responses.append(message)

    def ended(self, side: Side, trailers: list[Header]) -> None:
        """Look at what is complete now."""
        if self._done:
            return
        if side is Side.RUNTIME:
            self._runner.run(self._answer_last(trailers))
            return
        self._complete = True
        if self._shape.messages.request is not None:
            self._runner.run(self._ask())

    def too_large(self, side: Side, limit: int) -> None:
        """Do at once what can be done without the message and without waiting; pass on the rest."""
        if self._done:
            return
        error = partial(EvaluationError, "held_limit", f"more than {limit} bytes would be held")
        with self._runner.hurry(error):
            if side is Side.RUNTIME:
                self._runner.run(self._give_up(error()))
            elif not self._released:
                self._runner.run(self._ask())

    def over(self) -> None:
        """Give up whatever is under way, and the places that the call has taken."""
        self._finish()
        self._deeds.release()

    # The call's courses.

    def _ask(self) -> Steps[None]:
        """Lead the request to the runtime."""
        if self._released:
            return
        held = self._held_request()
        yield from self._walk.request(held)
        if held.is_readable:
            self._requests = [(yield from held.payload())]
        for payload in self._requests:
            self._stream.send(Side.CLIENT, payload.data, payload.compressed)
        self._released = True
        if self._complete:
            self._stream.end(Side.CLIENT)
        else:
            self._stream.pass_on(Side.CLIENT)
        if not self._shape.learns and not self._walk.acts_after:
            self._stream.pass_on(Side.RUNTIME)
            self._finish()
            if not self._deeds.places:
                self._stream.leave()

    def _held_request(self) -> HeldMessage:
        kind = self._shape.messages.request
        if kind is None:
            return HeldMessage.unreadable("decode", "not a method of the CRI")
        if not self._shape.request_held:
            return HeldMessage.unreadable("decode", "the request was not held")
        if not self._complete:
            return HeldMessage.unreadable("held_limit", "the request is too large to be held")
        if len(self._requests) != 1:
            count = len(self._requests)
            return HeldMessage.unreadable("decode", f"a unary request of {count} messages")
        return self._hold(self._requests[0], kind, self._shape.encoding)

    def _answer_with(self, payload: Payload) -> Steps[None]:
        """Lead a message of a response stream to the client."""
        held = self._held_response(payload)
        cut = yield from self._walk.response(held, last=False, ok=True)
        if held.dropped:
            self._stream.drop(Side.RUNTIME)
        else:
            yield from self._send(held, payload)
        if cut is not None:
            raise cut.answer

    def _answer_last(self, trailers: list[Header]) -> Steps[None]:
        """Lead the response's end to the client, and the message of one that is not a stream."""
        ok = _is_ok(trailers)
        if ok and self._shape.learns:
            yield from self._learn()
        payloads, self._responses = self._responses, []
        held: HeldMessage | None = None
        if ok and not self._shape.messages.streaming:
            held = self._held_unary_response(payloads)
        yield from self._walk.response(held, last=True, ok=ok)
        scope = self._walk.scope
        if not ok and scope is not None and scope.hides_failures:
            raise LocalReply(_code_of(trailers), _HIDDEN)
        if held is not None and held.is_readable:
            yield from self._send(held, payloads[0])
        elif scope is not None:  # nobody has looked at what comes with a failure
            for _ in payloads:
                self._stream.drop(Side.RUNTIME)
        else:
            self._send_all(payloads)
        self._stream.end(Side.RUNTIME)
        self._finish()

    def _give_up(self, error: EvaluationError) -> Steps[None]:
        """Let the response pass that is too large to be held."""
        self._walk.unheld(error)
        self._send_all(self._responses)
        self._stream.pass_on(Side.RUNTIME)
        self._finish()
        yield from ()

    def _held_unary_response(self, payloads: list[Payload]) -> HeldMessage:
        if len(payloads) != 1:
            return HeldMessage.unreadable("decode", f"a unary response of {len(payloads)} messages")
        return self._held_response(payloads[0])

    def _held_response(self, payload: Payload) -> HeldMessage:
        kind = self._shape.messages.response
        if kind is None:
            return HeldMessage.unreadable("decode", "not a method of the CRI")
        return self._hold(payload, kind, None)

    def _hold(self, payload: Payload, kind: type[Message], encoding: bytes | None) -> HeldMessage:
        resources = self._resources
        return HeldMessage(payload, kind, encoding, resources.held_limit, resources.workbench)

    def _send(self, held: HeldMessage, original: Payload) -> Steps[None]:
        payload = original
        if held.is_readable:
            payload = yield from held.payload()
        self._stream.send(Side.RUNTIME, payload.data, payload.compressed)

    def _send_all(self, payloads: list[Payload]) -> None:
        for payload in payloads:
            self._stream.send(Side.RUNTIME, payload.data, payload.compressed)

    def _learn(self) -> Steps[None]:
        """Have the memory learn from what the runtime was sent and what it answered."""
        if len(self._requests) != 1 or len(self._responses) != 1:
            return
        limit = self._resources.held_limit
        try:
            request = inflated(self._requests[0], self._shape.encoding, limit)
            response = inflated(self._responses[0], None, limit)
            self._resources.memory.learn(self._stream.path, request, response)
        except Exception as error:  # what is not remembered is not known; the call goes on
            self._resources.log.warning("not remembered", detail=repr(error))
        yield from ()

    # What the runner tells.

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin a task for a course that waits."""
        return self._resources.tasks.start(work, "held call")

    def failed(self, error: Exception) -> None:
        """Answer the call as a rule has it, or for a fault of ours."""
        if not isinstance(error, LocalReply):
            self._resources.log.warning("handling failed", exc_info=error)
            error = LocalReply(StatusCode.INTERNAL, "criproxy: internal error")
        self._answer(error)

    def left(self) -> float | None:
        """Tell how many seconds are left until the call's deadline."""
        return None if self._deadline is None else self._deadline - self._resources.clock()

    def too_late(self) -> None:
        """Answer the call, whose deadline has passed while rules had it waiting."""
        self._answer(
            LocalReply(StatusCode.DEADLINE_EXCEEDED, "criproxy: deadline exceeded while held")
        )

    def waits(self) -> None:
        """Note that the call waits."""
        self._deeds.waits()

    def goes_on(self) -> None:
        """Note that it does so no longer."""
        self._deeds.goes_on()

    def _answer(self, answer: LocalReply) -> None:
        if not self._done:
            self._finish()
            self._stream.answer(answer.code, answer.message)

    def _finish(self) -> None:
        self._done = True
        self._runner.stop()


def _code_of(trailers: list[Header]) -> StatusCode:
    """Return the status that a response failed with."""
    codes = (parse_status(value) for name, value in trailers if name == b"grpc-status")
    return next(codes, StatusCode.UNKNOWN)


def _is_ok(trailers: list[Header]) -> bool:
    """Tell whether a response ended with status OK."""
    return any(
        name == b"grpc-status" and parse_status(value) is StatusCode.OK for name, value in trailers
    )
