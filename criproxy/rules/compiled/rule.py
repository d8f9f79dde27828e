"""A rule, compiled for every method that it is for."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from google.protobuf.message import Message

from criproxy.cri.methods import Method
from criproxy.cri.naming import MethodName, matches, resolve
from criproxy.rules.callers import any_glob, is_caller
from criproxy.rules.cel.variables import POD_SUBJECTS, SUBJECTS, VariableValues, values_of
from criproxy.rules.compiled.method_program import (
    MethodCompileError,
    MethodProgram,
    compile_for,
    compile_outside_cri,
)
from criproxy.rules.errors import EvaluationError, RuleError
from criproxy.rules.facts import Facts
from criproxy.rules.images import ImageMap, PairError
from criproxy.rules.spec import Action, RuleSpec

_Key = tuple[str, str]


class Rule:
    """One rule.

    A method outside the CRI has no messages that are known. A rule that looks into messages is not
    for such a method, unless it is there to refuse (it denies, or fails on errors): then every call
    of the method is one that it could not be evaluated on, or calling it by another name would do.
    """

    def __init__(self, spec: RuleSpec, methods: Iterable[Method], dry_run: bool = False) -> None:
        """``methods`` are all that there are to choose from. Raises RuleError."""
        self.spec: Final = spec
        self.name: Final = spec.name
        self.action: Final[Action] = spec.action
        self.dry_run: Final = dry_run or spec.mode == "dry-run"
        self.fails: Final = spec.fails
        self.goes_on: Final = spec.continue_
        self._images = self._image_map()
        chosen = [method for method in methods if self._chooses(method)]
        self._parts: Mapping[_Key, MethodProgram] = self._compiled(chosen)
        self._outside = self._compiled_outside(bool(chosen))

    @property
    def touches_request(self) -> bool:
        """Whether its action takes the request's message, beside what ``where`` takes."""
        rewrite = self.spec.rewrite
        return bool(rewrite and rewrite.request) or self.action in ("rewrite_images", "hook")

    @property
    def touches_response(self) -> bool:
        """Whether its action takes the response's messages, or their end."""
        rewrite, fault, delay = self.spec.rewrite, self.spec.fault, self.spec.delay
        if fault is not None:
            return fault.when == "after" or fault.cut_after is not None or fault.drop is not None
        if delay is not None:
            return delay.when == "after"
        return bool(rewrite and rewrite.response) or self.action in ("rewrite_images", "hook")

    @property
    def needs_pods(self) -> bool:
        """Whether it asks which pod and container a call is about."""
        limit = self.spec.limit
        if self.action == "hook" or (limit is not None and limit.per == "pod"):
            return True
        every = [*self._parts.values(), *([self._outside] if self._outside else [])]
        return any(parts.names & POD_SUBJECTS for parts in every)

    def concerns(self, named: MethodName) -> bool:
        """Tell whether it may have a say in calls of a method."""
        if (named.service, named.method) in self._parts:
            return True
        if named.api_version is not None or not self._names(named):
            return False
        return self._outside is not None or self._refuses

    def needs_request(self, named: MethodName) -> bool:
        """Tell whether the request's message is needed to say if it matches a call of the method,
        or to do what it does about the response."""
        parts = self._parts.get((named.service, named.method))
        return parts is not None and not parts.early_names.isdisjoint(SUBJECTS)

    def is_for(self, facts: Facts) -> bool:
        """Tell whether a call comes from whom and where the rule says: all that is known of a call
        before its message is, and false for most calls."""
        match = self.spec.match
        if match.listeners is not None and not any_glob(match.listeners, facts.listener):
            return False
        return match.callers is None or is_caller(match.callers, facts.caller)

    def matches(self, facts: Facts) -> bool:
        """Tell whether the rule is for a call of a method that it concerns.

        Raises EvaluationError where that cannot be told.
        """
        if not self.is_for(facts):
            return False
        where = self._parts_of(facts.named).where
        return where is None or bool(where.evaluate(values_of(facts).activation(where.names)))

    def metadata(self, facts: Facts) -> list[tuple[bytes, bytes]]:
        """Return the headers to add to the request. Raises EvaluationError."""
        values = values_of(facts)
        return [
            (name.encode(), _header(name, value.evaluate(values.activation(value.names))))
            for name, value in self._parts_of(facts.named).metadata
        ]

    def rewrite_request(self, facts: Facts) -> Message:
        """Return the request as it is to go on: a changed copy, or itself.

        Raises EvaluationError.
        """
        request = facts.request
        if request is None:
            raise EvaluationError("decode", "there is no request to look at")
        if self._images is not None:
            return _changed(request, self._images.request)
        rewriting = self._parts_of(facts.named).request
        return request if rewriting is None else rewriting.apply(request, values_of(facts))

    def rewrite_response(self, facts: Facts, response: Message) -> Message:
        """Return a response, or one message of a stream, as it is to go on: a changed copy, or
        itself. Raises EvaluationError."""
        if self._images is not None:
            return _changed(response, self._images.response)
        rewriting = self._parts_of(facts.named).response
        if rewriting is None:
            return response
        return rewriting.apply(response, VariableValues(facts, response))

    def drops(self, facts: Facts, response: Message) -> bool:
        """Tell whether a message of a stream is one that ``fault.drop`` means.

        Raises EvaluationError.
        """
        drop = self._parts_of(facts.named).drop
        if drop is None:
            return False
        return bool(drop.evaluate(VariableValues(facts, response).activation(drop.names)))

    # Which methods

    @property
    def _refuses(self) -> bool:
        return self.fails or self.action == "deny"

    def _names(self, named: MethodName) -> bool:
        return any(matches(glob, named) for glob in self.spec.match.methods)

    def _chooses(self, method: Method) -> bool:
        """Tell whether a method of the CRI has what the rule is about."""
        if not self._names(resolve(method.path.encode())):
            return False
        fault = self.spec.fault
        if fault is not None and (fault.cut_after is not None or fault.drop is not None):
            return method.server_streaming
        if self._images is not None:
            return method.name in self._images.requests | self._images.responses
        return True

    def _parts_of(self, named: MethodName) -> MethodProgram:
        found = self._parts.get((named.service, named.method)) or self._outside
        if found is None:
            raise EvaluationError("decode", f"{named.method} is not a method of the CRI")
        return found

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

    def _compiled(self, methods: Sequence[Method]) -> Mapping[_Key, MethodProgram]:
        """Compile for each method. A mistake in all of them is told as it is; one in some of them
        with the method."""
        compiled: dict[_Key, MethodProgram] = {}
        mistakes: list[tuple[Method, MethodCompileError]] = []
        for method in methods:
            try:
                compiled[method.service, method.name] = compile_for(self.spec, method)
            except MethodCompileError as mistake:
                mistakes.append((method, mistake))
        if mistakes:
            method, first = mistakes[0]
            of = f"for {method.service}/{method.name}: " if compiled else ""
            raise RuleError(self.name, first.keys, of + first.message) from first
        return compiled

    def _compiled_outside(self, has_methods: bool) -> MethodProgram | None:
        """Compile for methods outside the CRI; None where there is too little known of them."""
        try:
            parts = compile_outside_cri(self.spec)
        except MethodCompileError as mistake:
            if has_methods:
                return None
            raise RuleError(self.name, mistake.keys, mistake.message) from mistake
        return None if self._takes_messages else parts

    @property
    def _takes_messages(self) -> bool:
        """Whether its action looks into messages, or is about what only the CRI's streams have."""
        rewrite, fault = self.spec.rewrite, self.spec.fault
        if rewrite is not None:
            return bool(rewrite.request or rewrite.response)
        if fault is not None:
            return fault.cut_after is not None or fault.drop is not None
        return self.action in ("rewrite_images", "hook")


def _header(name: str, value: str) -> bytes:
    if not value.isascii() or not value.isprintable() or value != value.strip():
        raise EvaluationError("cel", f"{name}: {value[:80]!r} cannot be the value of a header")
    return value.encode()


def _changed(message: Message, change: Callable[[Message], bool]) -> Message:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy if change(copy) else message
