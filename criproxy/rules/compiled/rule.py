"""A rule, compiled for each method that it matches."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from google.protobuf.message import Message

from criproxy.cri.methods import Method
from criproxy.cri.naming import MethodName, matches, resolve
from criproxy.peers.peer import Peer
from criproxy.rules.callers import any_glob, is_caller
from criproxy.rules.cel.expressions import Expression
from criproxy.rules.cel.variables import POD_SUBJECTS, SUBJECTS, VariableValues, values_of
from criproxy.rules.compiled.method_program import (
    MethodCompileError,
    MethodProgram,
    compile_for,
    compile_outside_cri,
)
from criproxy.rules.errors import EvaluationError, RuleError
from criproxy.rules.facts import Facts
from criproxy.rules.image_names import image_of
from criproxy.rules.images import ImageMap, PairError
from criproxy.rules.spec import Action, RuleSpec
from criproxy.wire.hpack.decoder import Header

_Key = tuple[str, str]

_PULL: Final = "PullImage"
_AUTH: Final = re.compile(r"auth(?:\.(\w+))?")
"""A field path of a pull's credentials, or of one field of them."""


class Rule:
    """One compiled rule.

    The messages of a method outside the CRI are unknown. A rule that uses messages does not apply
    to such a method, unless it denies calls or fails on errors: then it fails in each call of the
    method, because otherwise it could be avoided by calling the method by another name.
    """

    def __init__(self, spec: RuleSpec, methods: Iterable[Method], dry_run: bool = False) -> None:
        """``methods`` are the methods of the CRI. Raises RuleError."""
        self.spec: Final = spec
        self.name: Final = spec.name
        self.action: Final[Action] = spec.action
        self.dry_run: Final = dry_run or spec.mode == "dry-run"
        self.fails_closed: Final = spec.fails
        self.continues: Final = spec.continue_
        self._images = self._image_map()
        paths = spec.rewrite.request if spec.rewrite is not None else ()
        self._sets_auth = [found[1] for path in paths if (found := _AUTH.fullmatch(path))]
        selected = [method for method in methods if self._selects(method)]
        self._programs: Mapping[_Key, MethodProgram] = self._compile(selected)
        self._program_outside_cri = self._compile_outside_cri(bool(selected))

    @property
    def touches_request(self) -> bool:
        """Whether the action uses the request's message, apart from ``where``."""
        rewrite = self.spec.rewrite
        return bool(rewrite and rewrite.request) or self.action in ("rewrite_images", "hook")

    @property
    def touches_response(self) -> bool:
        """Whether the action uses the response's messages or their end."""
        rewrite, fault, delay = self.spec.rewrite, self.spec.fault, self.spec.delay
        if fault is not None:
            return fault.when == "after" or fault.cut_after is not None or fault.drop is not None
        if delay is not None:
            return delay.when == "after"
        return bool(rewrite and rewrite.response) or self.action in ("rewrite_images", "hook")

    @property
    def needs_pods(self) -> bool:
        """Whether the rule needs the pod, the container or the image of some calls."""
        programs = [*self._programs.values(), self._program_outside_cri]
        return self._action_needs_pods or any(map(_names_pods, programs))

    def needs_pods_for(self, method: MethodName) -> bool:
        """Return whether the rule needs the pod, the container or the image of a method's calls."""
        return self._action_needs_pods or _names_pods(self._program_of(method))

    def may_apply_to(self, method: MethodName) -> bool:
        """Return whether the rule may apply to calls of a method."""
        if (method.service, method.method) in self._programs:
            return True
        if method.api_version is not None or not self._names(method):
            return False
        return self._program_outside_cri is not None or self._may_refuse

    def needs_request(self, method: MethodName) -> bool:
        """Return whether the request's message is needed to match a call of a method, or for the
        response."""
        program = self._programs.get((method.service, method.method))
        return program is not None and not program.early_names.isdisjoint(SUBJECTS)

    def condition(self, method: MethodName) -> Expression | None:
        """Return ``where`` as it is compiled for a method; None if there is none."""
        program = self._program_of(method)
        return None if program is None else program.where

    @property
    def selects_clients(self) -> bool:
        """Whether the rule depends on a call's listener or caller, apart from ``where``."""
        return self.spec.match.listeners is not None or self.spec.match.callers is not None

    def matches_client(self, listener: str, caller: Peer) -> bool:
        """Return whether a call's listener and caller match, which are known before its message."""
        match = self.spec.match
        if match.listeners is not None and not any_glob(match.listeners, listener):
            return False
        return match.callers is None or is_caller(match.callers, caller)

    def matches(self, facts: Facts) -> bool:
        """Return whether the rule matches a call of a method that it may apply to.

        Raises EvaluationError if ``where`` cannot be evaluated.
        """
        return self.matches_client(facts.listener, facts.caller) and self.condition_holds(facts)

    def condition_holds(self, facts: Facts) -> bool:
        """Return whether ``where`` holds for a call. Raises EvaluationError."""
        where = self._program(facts.method_name).where
        return where is None or bool(where.evaluate(values_of(facts).activation(where.names)))

    def metadata(self, facts: Facts) -> list[Header]:
        """Return the headers to add to the request. Raises EvaluationError."""
        values = values_of(facts)
        return [
            (name.encode(), _header(name, value.evaluate(values.activation(value.names))))
            for name, value in self._program(facts.method_name).metadata
        ]

    def rewrite_request(self, facts: Facts) -> Message:
        """Return a changed copy of the request, or the request itself if nothing changes.

        Credentials stay with their registry, see ``auth``. Raises EvaluationError.
        """
        request = facts.request
        if request is None:
            raise EvaluationError("decode", "there is no request to look at")
        if self._images is not None:
            after = _changed(request, partial(self._images.request, short_names=facts.short_names))
        else:
            rewriting = self._program(facts.method_name).request
            after = request if rewriting is None else rewriting.apply(request, values_of(facts))
        self.drop_auth(facts, request, after)
        return after

    def drop_auth(self, facts: Facts, before: Any, after: Any) -> None:
        """Clear the credentials of another registry, in place, in a request that the rule has
        changed, as its ``auth`` says."""
        if after is before or facts.method_name.method != _PULL or not after.HasField("auth"):
            return
        old, new = (image_of(each.image.image, facts.short_names) for each in (before, after))
        if old.registry == new.registry or None in self._sets_auth:
            return
        if self.spec.auth == "keep":
            if "server_address" not in self._sets_auth:  # names the other registry
                after.auth.ClearField("server_address")
        elif self._sets_auth:
            own = type(after.auth)(**{name: getattr(after.auth, name) for name in self._sets_auth})
            after.auth.CopyFrom(own)
        elif self.action != "hook" or after.auth == before.auth:
            after.ClearField("auth")

    def rewrite_response(self, facts: Facts, response: Message) -> Message:
        """Return a changed copy of a response, or of one message of a stream, or the message itself
        if nothing changes. Raises EvaluationError."""
        if self._images is not None:
            rename = partial(self._images.response, short_names=facts.short_names)
            return _changed(response, rename)
        rewriting = self._program(facts.method_name).response
        if rewriting is None:
            return response
        return rewriting.apply(response, VariableValues(facts, response))

    def drops(self, facts: Facts, response: Message) -> bool:
        """Return whether ``fault.drop`` is true for a message of a stream.

        Raises EvaluationError.
        """
        drop = self._program(facts.method_name).drop
        if drop is None:
            return False
        return bool(drop.evaluate(VariableValues(facts, response).activation(drop.names)))

    # Selecting methods

    @property
    def _may_refuse(self) -> bool:
        return self.fails_closed or self.action == "deny"

    def _names(self, method: MethodName) -> bool:
        return any(matches(glob, method) for glob in self.spec.match.methods)

    def _selects(self, method: Method) -> bool:
        """Return whether the rule names a method of the CRI and its action may apply to it."""
        if not self._names(resolve(method.path.encode())):
            return False
        fault = self.spec.fault
        if fault is not None and (fault.cut_after is not None or fault.drop is not None):
            return method.server_streaming
        if self._images is not None:
            return method.name in self._images.requests | self._images.responses
        return True

    @property
    def _action_needs_pods(self) -> bool:
        limit = self.spec.limit
        return self.action == "hook" or (limit is not None and limit.per == "pod")

    def _program_of(self, method: MethodName) -> MethodProgram | None:
        return self._programs.get((method.service, method.method)) or self._program_outside_cri

    def _program(self, method: MethodName) -> MethodProgram:
        program = self._program_of(method)
        if program is None:
            raise EvaluationError("decode", f"{method.method} is not a method of the CRI")
        return program

    # Compiling

    def _image_map(self) -> ImageMap | None:
        pairs = self.spec.rewrite_images
        if pairs is None:
            return None
        try:
            return ImageMap([(pair.from_, pair.to) for pair in pairs])
        except PairError as error:
            keys = ("rewrite_images", error.index, error.key)
            raise RuleError(self.name, keys, str(error)) from error

    def _compile(self, methods: Sequence[Method]) -> Mapping[_Key, MethodProgram]:
        """Compile the rule for each method. An error that only some methods have names the
        method."""
        programs: dict[_Key, MethodProgram] = {}
        errors: list[tuple[Method, MethodCompileError]] = []
        for method in methods:
            try:
                programs[method.service, method.name] = compile_for(self.spec, method)
            except MethodCompileError as error:
                errors.append((method, error))
        if errors:
            method, first = errors[0]
            of = f"for {method.service}/{method.name}: " if programs else ""
            raise RuleError(self.name, first.keys, of + first.message) from first
        return programs

    def _compile_outside_cri(self, has_methods: bool) -> MethodProgram | None:
        """Compile the rule for methods outside the CRI; None if it needs messages."""
        try:
            program = compile_outside_cri(self.spec)
        except MethodCompileError as error:
            if has_methods:
                return None
            raise RuleError(self.name, error.keys, error.message) from error
        return None if self._needs_messages else program

    @property
    def _needs_messages(self) -> bool:
        """Whether the action uses messages, or applies only to the CRI's streams."""
        rewrite, fault = self.spec.rewrite, self.spec.fault
        if rewrite is not None:
            return bool(rewrite.request or rewrite.response)
        if fault is not None:
            return fault.cut_after is not None or fault.drop is not None
        return self.action in ("rewrite_images", "hook")


def _names_pods(program: MethodProgram | None) -> bool:
    return program is not None and not program.names.isdisjoint(POD_SUBJECTS)


def _header(name: str, value: str) -> bytes:
    if not value.isascii() or not value.isprintable() or value != value.strip():
        raise EvaluationError("cel", f"{name}: {value[:80]!r} cannot be the value of a header")
    return value.encode()


def _changed(message: Message, change: Callable[[Message], bool]) -> Message:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy if change(copy) else message
