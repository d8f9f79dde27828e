"""Carries out the effects of rules on one call, and counts and logs them; in dry-run only logs."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Literal

from google.protobuf.message import Message

from criproxy.concurrency.steps import LARGE, Steps
from criproxy.concurrency.tasks import run_in_thread_if
from criproxy.cri.naming import MethodName
from criproxy.cri.text_redaction import redact_text
from criproxy.enforce.counts import record_denial
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
from criproxy.enforce.hooks.hook import HookDenial, call_hook
from criproxy.enforce.resources import Resources
from criproxy.peers.peer import Connection
from criproxy.rules.errors import UNKNOWN_POD, EvaluationError
from criproxy.rules.facts import Facts
from criproxy.rules.messages.diff import diff_messages
from criproxy.wire.grpc import StatusCode
from criproxy.wire.hpack.decoder import Header
from criproxy.wire.reading.calls import Call

Phase = Literal["request", "response"]
"""Which messages of a call an effect is for."""

INTERNAL: Final = "internal"
"""The reason of a failure that is a defect of this program."""

RULE: Final = "rule"
"""The reason for a call that a rule denies."""

QUEUE: Final = "queue"
"""The reason of a failure for a call that got no slot of its rule's limit."""

_LONGEST_DETAIL: Final = 4096
"""Characters of a failure's text that are logged and returned to the client."""

_PENDING_DRY_RUNS: Final = 100
"""Calls of a rule's hook in dry-run that may be pending at a time: no call waits for them, and each
keeps its messages in memory."""


class EffectExecutor:
    """Carries out effects on one call. ``slots`` are functions that release its slots of limits."""

    def __init__(
        self, resources: Resources, connection: Connection, name: MethodName, call: Call | None
    ) -> None:
        """``call`` is updated with the names of the rules that act; None if it is not observed."""
        self._resources = resources
        self._connection = connection
        self._name = name
        self._call = call
        self._logged: set[tuple[str, str]] = set()
        self.slots: list[Callable[[], None]] = []

    def release_slots(self) -> None:
        """Release the slots that the call has acquired."""
        while self.slots:
            self.slots.pop()()

    def record_action(self, active: ActiveRule) -> None:
        """Set on the call that a rule has acted on it."""
        name = active.rule.name
        if self._call is not None and name not in self._call.rules:
            self._call.rules += (name,)

    def record_denial(self, reason: str) -> None:
        """Count that the call is denied, and set the reason on the call."""
        counts = self._resources.counts
        record_denial(counts, self._connection, self._name, self._call, reason)

    def deny_by_profile(self, denial: ProfileDenial) -> LocalReply:
        """Record that the listener's profile denies the call; return the reply to the client."""
        self.record_denial(denial.reason)
        return LocalReply(StatusCode.PERMISSION_DENIED, denial.message)

    def wait_began(self) -> None:
        """Set on the call that rules keep it waiting from now on."""
        if self._call is not None:
            self._call.waiting_since = self._resources.clock()

    def wait_ended(self) -> None:
        """Set on the call that it waits no longer, if it did."""
        call = self._call
        if call is not None and call.waiting_since is not None:
            call.held = call.held_by(self._resources.clock())
            call.waiting_since = None

    def metadata_added(self, active: ActiveRule, metadata: list[Header]) -> None:
        """Record that a rule adds headers to the request, which have been sent by now."""
        if metadata and active.rule.dry_run:
            self._log_dry_run(active, AddMetadata(metadata), "request")
        elif metadata:
            self.record_action(active)

    def execute(
        self,
        active: ActiveRule,
        effect: Effect,
        held: HeldMessage | None,
        facts: Facts,
        phase: Phase,
    ) -> Steps[None]:
        """Carry out an effect on the message of a phase. Raises LocalReply to answer the call."""
        if active.rule.dry_run:
            yield from self._dry_run(active, effect, held, facts, phase)
            return
        if isinstance(effect, AcquireSlot):
            yield from self._acquire_slot(active, effect.limit, facts)
            return
        self.record_action(active)
        match effect:
            case LocalReply():
                if active.rule.spec.deny is not None:
                    self.record_denial(RULE)
                raise effect
            case Wait(seconds):
                yield partial(asyncio.sleep, seconds)
            case Hang():
                yield _forever
        if held is not None:
            yield from self._change(active, effect, held, facts, phase)

    def rule_failed(self, active: ActiveRule, error: Exception) -> None:
        """Handle an exception of a rule's evaluation or effect: count it, log it once for the call.

        Raises LocalReply if it is one, or if the rule's ``on_error`` fails the call.
        """
        if isinstance(error, LocalReply):
            raise error
        if isinstance(error, HookDenial):
            self.record_action(active)
            self.record_denial(RULE)
            raise LocalReply(error.code, error.message or active.denial) from error
        detail = self._report_failure(active, error)
        if detail is not None and active.rule.fails_closed and not active.rule.dry_run:
            self.record_action(active)
            message = f"criproxy: rule {active.rule.name}: {detail}"
            raise LocalReply(StatusCode.INTERNAL, message) from error

    def _report_failure(self, active: ActiveRule, error: Exception) -> str | None:
        """Count and log a failure. Return its text, None if it does not fail calls."""
        name = active.rule.name
        more: dict[str, Any] = {}
        if isinstance(error, EvaluationError):
            reason, detail = error.reason, error.detail
        else:
            reason, detail = INTERNAL, repr(error)
            more["exc_info"] = error
        detail = redact_text(detail, limit=_LONGEST_DETAIL)  # hooks quote URLs, and what they got
        self._resources.counts.count_failure(name, reason)
        if reason == UNKNOWN_POD:
            return None
        if (name, reason) not in self._logged:
            self._logged.add((name, reason))
            self._resources.log.warning(
                "rule failed", **self._log_fields(active), reason=reason, detail=detail, **more
            )
        return detail

    def _change(
        self, active: ActiveRule, effect: Effect, held: HeldMessage, facts: Facts, phase: Phase
    ) -> Steps[None]:
        match effect:
            case DropMessage():
                held.dropped = True
            case ReplaceMessage(message):
                before = held.decoded
                yield from held.replace(message)
                self._record_change(active, phase, before, message)
            case CallHook():
                message = yield from held.message()
                after = yield partial(_call_hook, active, phase, message, facts)
                if after is not message:
                    yield from held.replace(after, from_hook=True)
                    self._record_change(active, phase, message, after)

    def _record_change(
        self, active: ActiveRule, phase: Phase, before: Message | None, after: Message
    ) -> None:
        """Set the changed message on the call, if its messages are kept; of a stream only the
        first, since a stream may have any number of messages."""
        call = self._call
        if call is None or call.capture is None or before is None:
            return
        if call.capture.request is None and call.capture.response is None:
            return
        name = active.rule.name
        if not any(change[:2] == (name, phase) for change in call.changes):
            call.changes += ((name, phase, before, after),)

    def _acquire_slot(
        self, active: ActiveRule, limit: ConcurrencyLimit, facts: Facts
    ) -> Steps[None]:
        key = limit.key(facts)
        if not limit.try_acquire(key):
            self.record_action(active)
            try:
                yield partial(limit.acquire, key)
            except LimitExceededError as error:
                self._resources.counts.count_failure(active.rule.name, QUEUE)
                message = f"criproxy: rule {active.rule.name}: {error}"
                raise LocalReply(StatusCode.RESOURCE_EXHAUSTED, message) from error
        self.slots.append(partial(limit.release, key))

    def _dry_run(
        self,
        active: ActiveRule,
        effect: Effect,
        held: HeldMessage | None,
        facts: Facts,
        phase: Phase,
    ) -> Steps[None]:
        """Log the effect; a hook is called in a background task, for which the call does not
        wait."""
        if isinstance(effect, AcquireSlot):
            self._dry_run_limit(active, effect, facts)
            return
        if held is None or not isinstance(effect, CallHook | ReplaceMessage):
            self._log_dry_run(active, effect, phase)
            return
        before = yield from held.message()
        if isinstance(effect, CallHook):
            self._start_hook_dry_run(active, before, facts, phase)
            return
        compare = self._resources.message_executor.run(held.size, _changes, before, effect.message)
        self._log_dry_run(active, effect, phase, (yield from compare))

    def _dry_run_limit(self, active: ActiveRule, effect: AcquireSlot, facts: Facts) -> None:
        key = effect.limit.key(facts)
        if effect.limit.try_acquire(key):
            self.slots.append(partial(effect.limit.release, key))
        else:
            self._log_dry_run(active, effect, "request")

    def _start_hook_dry_run(
        self, active: ActiveRule, before: Message, facts: Facts, phase: Phase
    ) -> None:
        if active.pending_dry_runs >= _PENDING_DRY_RUNS:
            detail = f"not asked in dry-run: {_PENDING_DRY_RUNS} answers are waited for"
            raise EvaluationError("timeout", detail)

        def ended(_: asyncio.Task[None]) -> None:
            active.pending_dry_runs -= 1

        active.pending_dry_runs += 1
        work = self._dry_run_hook(active, before, facts, phase)
        task = self._resources.tasks.start(work, f"dry-run of rule {active.rule.name}")
        task.add_done_callback(ended)

    async def _dry_run_hook(
        self, active: ActiveRule, before: Message, facts: Facts, phase: Phase
    ) -> None:
        try:
            after = await _call_hook(active, phase, before, facts)
        except HookDenial as denial:
            reply = LocalReply(denial.code, denial.message or active.denial)
            self._log_dry_run(active, reply, phase)
        except Exception as error:
            self._report_failure(active, error)
        else:
            if after is not before:
                large = max(before.ByteSize(), after.ByteSize()) > LARGE
                changes = await run_in_thread_if(large, _changes, before, after)
                self._log_dry_run(active, ReplaceMessage(after), phase, changes)

    def _log_dry_run(
        self,
        active: ActiveRule,
        effect: Effect | AddMetadata,
        phase: Phase,
        changes: Sequence[str] = (),
    ) -> None:
        more = {"changes": list(changes)} if changes else {}
        self._resources.log.info(
            "dry-run", **self._log_fields(active), half=phase, would=str(effect), **more
        )

    def _log_fields(self, active: ActiveRule) -> dict[str, Any]:
        return {
            **self._connection.fields(),
            "service": self._name.service,
            "method": self._name.method,
            "api_version": self._name.api_version,
            "rule": active.rule.name,
            "action": active.rule.action,
        }


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()


async def _call_hook(active: ActiveRule, phase: Phase, message: Message, facts: Facts) -> Message:
    hook, spec = active.hook, active.rule.spec.hook
    if hook is None or spec is None:
        return message
    after = await call_hook(hook, spec, phase, message, facts)
    if phase == "request":
        active.rule.drop_auth(facts, message, after)
    return after


def _changes(before: Message, after: Message) -> list[str]:
    return [str(change) for change in diff_messages(before, after)]
