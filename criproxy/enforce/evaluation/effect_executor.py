"""What rules do to one call, or in dry-run would have done; and who is told of it."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Literal

from google.protobuf.message import Message

from criproxy.concurrency.steps import Steps
from criproxy.cri.naming import MethodName
from criproxy.enforce.counts import note_denial
from criproxy.enforce.evaluation.active_rule import ActiveRule
from criproxy.enforce.evaluation.concurrency_limit import ConcurrencyLimit, LimitExceededError
from criproxy.enforce.evaluation.effects import (
    AcquireSlot,
    AddMetadata,
    CallHook,
    DropMessage,
    Effect,
    Hang,
    LocalReply,
    ProfileDenial,
    ReplaceMessage,
    Wait,
)
from criproxy.enforce.evaluation.payloads import HeldMessage
from criproxy.enforce.hooks.hook import HookDenial, ask
from criproxy.enforce.resources import Resources
from criproxy.peers.peer import Connection
from criproxy.rules.errors import EvaluationError
from criproxy.rules.facts import Facts
from criproxy.rules.messages.diff import diff_messages
from criproxy.wire.grpc import StatusCode
from criproxy.wire.hpack.decoder import Header
from criproxy.wire.reading.calls import Call

Phase = Literal["request", "response"]
"""Which of a call's messages are meant."""

UNKNOWN_POD: Final = "unknown_pod"
"""The reason that fails no call: of a pod that is not known nothing can be said."""

INTERNAL: Final = "internal"
"""The reason for what should not have been raised."""

RULE: Final = "rule"
"""The reason for a call that a rule denies."""

QUEUE: Final = "queue"
"""The reason for a call that found no place within its rule's limit."""


_REHEARSALS: Final = 100
"""Questions of a hook in dry-run that may be open at a time: no call waits for their answers, and
each keeps its messages."""


class EffectExecutor:
    """Carries out verdicts on one call. ``places`` are those that it has taken of limits."""

    def __init__(
        self, resources: Resources, connection: Connection, named: MethodName, call: Call | None
    ) -> None:
        """``call`` is given the names of the rules that act."""
        self._resources = resources
        self._connection = connection
        self._named = named
        self._call = call
        self._told: set[tuple[str, str]] = set()
        self.places: list[Callable[[], None]] = []

    def release(self) -> None:
        """Give back the places that the call has taken."""
        while self.places:
            self.places.pop()()

    def acted(self, actor: ActiveRule) -> None:
        """Note with the call that a rule has acted on it."""
        name = actor.rule.name
        if self._call is not None and name not in self._call.rules:
            self._call.rules += (name,)

    def denied(self, reason: str) -> None:
        """Count that the call is denied, and note with it why."""
        counts = self._resources.counts
        note_denial(counts, self._connection, self._named, self._call, reason)

    def refused(self, refusal: ProfileDenial) -> LocalReply:
        """Take notice that the listener's profile denies the call; return what it is answered."""
        self.denied(refusal.reason)
        return LocalReply(StatusCode.PERMISSION_DENIED, refusal.message)

    def waits(self) -> None:
        """Note with the call that rules have it waiting from now on."""
        if self._call is not None:
            self._call.waiting_since = self._resources.clock()

    def goes_on(self) -> None:
        """Note with the call that it waits no longer, if it did."""
        call = self._call
        if call is not None and call.waiting_since is not None:
            call.held = call.held_by(self._resources.clock())
            call.waiting_since = None

    def added(self, actor: ActiveRule, metadata: list[Header]) -> None:
        """Take notice that a rule adds headers to the request; they have been sent on by now."""
        if metadata and actor.rule.dry_run:
            self._tell(actor, AddMetadata(metadata), "request")
        elif metadata:
            self.acted(actor)

    def carry_out(
        self,
        actor: ActiveRule,
        verdict: Effect,
        held: HeldMessage | None,
        facts: Facts,
        half: Phase,
    ) -> Steps[None]:
        """Do what a rule says about the ``request`` or ``response`` (that ``half`` is).

        Raises Answer if that is to answer the call.
        """
        if actor.rule.dry_run:
            yield from self._rehearse(actor, verdict, held, facts, half)
            return
        if isinstance(verdict, AcquireSlot):
            yield from self._take_place(actor, verdict.limit, facts)
            return
        self.acted(actor)
        match verdict:
            case LocalReply():
                if actor.rule.spec.deny is not None:
                    self.denied(RULE)
                raise verdict
            case Wait(seconds):
                yield partial(asyncio.sleep, seconds)
            case Hang():
                yield _forever
        if held is not None:
            yield from self._change(actor, verdict, held, facts, half)

    def failed(self, actor: ActiveRule, error: Exception) -> None:
        """Take what came of a rule instead of a verdict: count it, and log it once with the call.

        Raises Answer if it is one, or if the call has to fail because the rule does.
        """
        if isinstance(error, LocalReply):
            raise error
        if isinstance(error, HookDenial):
            self.acted(actor)
            self.denied(RULE)
            raise LocalReply(error.code, error.message or actor.refusal) from error
        detail = self._confess(actor, error)
        if detail is not None and actor.rule.fails and not actor.rule.dry_run:
            self.acted(actor)
            message = f"criproxy: rule {actor.rule.name}: {detail}"
            raise LocalReply(StatusCode.INTERNAL, message) from error

    def _confess(self, actor: ActiveRule, error: Exception) -> str | None:
        """Count and log a failure; what to say of it, None if that is no reason to fail."""
        name = actor.rule.name
        more: dict[str, Any] = {}
        if isinstance(error, EvaluationError):
            reason, detail = error.reason, error.detail
        else:
            reason, detail = INTERNAL, repr(error)
            more["exc_info"] = error
        self._resources.counts.failed(name, reason)
        if reason == UNKNOWN_POD:
            return None
        if (name, reason) not in self._told:
            self._told.add((name, reason))
            self._resources.log.warning(
                "rule failed", **self._fields(actor), reason=reason, detail=detail, **more
            )
        return detail

    def _change(
        self, actor: ActiveRule, verdict: Effect, held: HeldMessage, facts: Facts, half: Phase
    ) -> Steps[None]:
        match verdict:
            case DropMessage():
                held.dropped = True
            case ReplaceMessage(message):
                self._changed(actor, half, held.decoded, message)
                held.replace(message)
            case CallHook():
                message = yield from held.message()
                after = yield partial(_asked, actor, half, message, facts)
                if after is not message:
                    self._changed(actor, half, message, after)
                    held.replace(after)

    def _changed(
        self, actor: ActiveRule, half: Phase, before: Message | None, after: Message
    ) -> None:
        """Note with the call what a rule changes, if somebody keeps its messages; of a stream's
        messages the first: of the others there may be any number."""
        call = self._call
        if call is None or call.kept is None or before is None:
            return
        name = actor.rule.name
        if not any(change[:2] == (name, half) for change in call.changes):
            call.changes += ((name, half, before, after),)

    def _take_place(self, actor: ActiveRule, limit: ConcurrencyLimit, facts: Facts) -> Steps[None]:
        key = limit.key(facts)
        if not limit.take(key):
            self.acted(actor)
            try:
                yield partial(limit.acquire, key)
            except LimitExceededError as error:
                self._resources.counts.failed(actor.rule.name, QUEUE)
                message = f"criproxy: rule {actor.rule.name}: {error}"
                raise LocalReply(StatusCode.RESOURCE_EXHAUSTED, message) from error
        self.places.append(partial(limit.release, key))

    def _rehearse(
        self,
        actor: ActiveRule,
        verdict: Effect,
        held: HeldMessage | None,
        facts: Facts,
        half: Phase,
    ) -> Steps[None]:
        """Tell what would have been done; a hook is asked that on the side, the call goes on."""
        if isinstance(verdict, AcquireSlot):
            self._rehearse_place(actor, verdict, facts)
            return
        if held is None or not isinstance(verdict, CallHook | ReplaceMessage):
            self._tell(actor, verdict, half)
            return
        before = yield from held.message()
        if isinstance(verdict, CallHook):
            self._begin_rehearsal(actor, before, facts, half)
            return
        compare = self._resources.workbench.do(held.size, _changes, before, verdict.message)
        self._tell(actor, verdict, half, (yield from compare))

    def _rehearse_place(self, actor: ActiveRule, queue: AcquireSlot, facts: Facts) -> None:
        key = queue.limit.key(facts)
        if queue.limit.take(key):
            self.places.append(partial(queue.limit.release, key))
        else:
            self._tell(actor, queue, "request")

    def _begin_rehearsal(
        self, actor: ActiveRule, before: Message, facts: Facts, half: Phase
    ) -> None:
        if actor.rehearsals >= _REHEARSALS:
            detail = f"not asked in dry-run: {_REHEARSALS} answers are waited for"
            raise EvaluationError("timeout", detail)
        actor.rehearsals += 1
        work = self._rehearse_hook(actor, before, facts, half)
        task = self._resources.tasks.start(work, f"dry-run of rule {actor.rule.name}")
        task.add_done_callback(lambda _: actor.rehearsed())

    async def _rehearse_hook(
        self, actor: ActiveRule, before: Message, facts: Facts, half: Phase
    ) -> None:
        try:
            after = await _asked(actor, half, before, facts)
        except HookDenial as denied:
            answer = LocalReply(denied.code, denied.message or actor.refusal)
            self._tell(actor, answer, half)
        except Exception as error:
            self._confess(actor, error)
        else:
            if after is not before:
                self._tell(actor, ReplaceMessage(after), half, _changes(before, after))

    def _tell(
        self,
        actor: ActiveRule,
        verdict: Effect | AddMetadata,
        half: Phase,
        changes: Sequence[str] = (),
    ) -> None:
        more = {"changes": list(changes)} if changes else {}
        self._resources.log.info(
            "dry-run", **self._fields(actor), half=half, would=str(verdict), **more
        )

    def _fields(self, actor: ActiveRule) -> dict[str, Any]:
        return {
            **self._connection.fields(),
            "service": self._named.service,
            "method": self._named.method,
            "api_version": self._named.api_version,
            "rule": actor.rule.name,
            "action": actor.rule.action,
        }


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()


async def _asked(actor: ActiveRule, half: Phase, message: Message, facts: Facts) -> Message:
    hook, spec = actor.hook, actor.rule.spec.hook
    if hook is None or spec is None:
        return message
    return await ask(hook, spec, half, message, facts)


def _changes(before: Message, after: Message) -> list[str]:
    return [str(change) for change in diff_messages(before, after)]
