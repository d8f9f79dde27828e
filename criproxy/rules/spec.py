"""The schema of a rule in the configuration: every key, its type, default and description.

Errors that depend on one rule alone are raised here; those that need the CRI's messages are raised
by :func:`criproxy.rules.compiled.ruleset.compile_rules`.
"""

import re
from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta, field

from criproxy.configtypes.section import Section
from criproxy.configtypes.values import Duration

Action: TypeAlias = Literal["rewrite", "rewrite_images", "delay", "fault", "deny", "hook", "limit"]
RulesMode: TypeAlias = Literal["enforce", "dry-run"]
OnError: TypeAlias = Literal["pass", "fail"]
When: TypeAlias = Literal["before", "after"]
Auth: TypeAlias = Literal["drop", "keep"]

ACTIONS: Final[tuple[Action, ...]] = (
    "rewrite",
    "rewrite_images",
    "delay",
    "fault",
    "deny",
    "hook",
    "limit",
)

Code: TypeAlias = Literal[
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
]
"""A name of criproxy.wire.grpc.StatusCode, except OK: a unary response with OK needs a message."""

Percentage: TypeAlias = Annotated[float, Meta(ge=0, le=100)]
Count: TypeAlias = Annotated[int, Meta(ge=0)]
AtLeastOne: TypeAlias = Annotated[int, Meta(ge=1)]
Globs: TypeAlias = list[str]

CelValue: TypeAlias = str | bool | int | float
"""A CEL expression; any other scalar is a literal."""

Assignments: TypeAlias = dict[str, CelValue | None]
"""Field paths and their new values; None clears a field."""

QUEUE: Final = 100
"""The default number of calls that wait for a limit. A kubelet has 110 pods by default: fewer would
refuse calls when a node starts, with more each would be late."""

_HEADER: Final = re.compile(r"[0-9a-z_.-]+")
_RESERVED: Final = frozenset(
    {"connection", "content-length", "content-type", "host", "te", "transfer-encoding"}
)
_PERCENTILE: Final = re.compile(r"p(\d{1,2}(\.\d+)?|100)")


class CallersSpec(Section, frozen=True):
    """Conditions on the caller, each of which has to hold."""

    uid: list[int] | None = None
    """User ids, one of which the client has to have. null: any."""
    gid: list[int] | None = None
    """Group ids, one of which the client's primary group has to be. null: any."""
    executable: Globs | None = None
    """Globs, one of which the path of the client's executable has to match. An unknown executable
    is the empty string, as in CEL. null: any."""
    unit: Globs | None = None
    """Globs, one of which the client's systemd unit has to match. An unknown unit is the empty
    string. null: any."""
    kubelet: bool | None = None
    """`true`: the client has to be the node's kubelet. `false`: it must not be the kubelet. null:
    either."""


class MatchSpec(Section, frozen=True):
    """The calls that a rule is for."""

    methods: Globs
    """Globs, matched against `PullImage`, `ImageService/PullImage` and the full path, of either
    API version; or the groups `@read`, `@mutating` and `@exec`."""
    where: str | bool | None = None
    """A CEL expression that has to be true. null: true."""
    callers: CallersSpec | None = None
    """Which callers the rule applies to. null: all."""
    listeners: Globs | None = None
    """Globs, one of which has to match the endpoint that received the call: `"*/criproxy.sock"`.
    null: all."""

    def __post_init__(self) -> None:
        if not self.methods:
            raise ValueError('methods has to name at least one; ["*"] is all of them')
        if self.listeners is not None and not self.listeners:
            raise ValueError("listeners has to name at least one; leave it out for all of them")


class MetadataSpec(Section, frozen=True):
    """Request headers that a rule adds: names, and CEL strings."""

    add: dict[str, str]
    """Names of request headers, and CEL expressions of type string for their values."""

    def __post_init__(self) -> None:
        for name in self.add:
            if not _HEADER.fullmatch(name):
                raise ValueError(
                    f"{name!r} is no name of a header: lower-case letters, digits, _ . and -"
                )
            if name.startswith("grpc-") or name in _RESERVED:
                raise ValueError(f"{name!r} is gRPC's own header, which rules leave alone")


class RewriteSpec(Section, frozen=True):
    """Changes to a call's messages and headers."""

    request: Assignments = field(default_factory=dict)
    """Field paths of the request, and CEL expressions for their new values. null clears a field."""
    response: Assignments = field(default_factory=dict)
    """Field paths of the response, and CEL expressions for their new values. The response's
    expressions apply to each message of a stream."""
    metadata: MetadataSpec | None = None
    """Changes to the request's headers. null: none."""

    def __post_init__(self) -> None:
        if not self.request and not self.response and not (self.metadata and self.metadata.add):
            raise ValueError("rewrite has to set something in request, response or metadata")


class ImagePairSpec(Section, frozen=True):
    """A pattern of image names with one ``*``, and what they are called at the runtime."""

    from_: str = field(name="from")
    """A pattern with one `*` of image names as clients use them."""
    to: str
    """The name at the runtime; `*` stands for the text that `*` matched in `from`."""


class DelaySpec(Section, frozen=True):
    """A delay of matching calls."""

    fixed: Duration | None = None
    """The time that calls wait. A delay has either `fixed` or `percentiles`."""
    jitter: Duration = Duration(0)
    """The maximum random deviation from `fixed`, in either direction."""
    percentiles: dict[str, Duration] | None = None
    """A distribution of waiting times, `{p50: 10ms, p99: 2s}`, interpolated linearly. null:
    `fixed` applies."""
    percentage: Percentage = 100.0
    """The percentage of matching calls that are delayed."""
    when: When = "before"
    """`before`: the delay precedes the runtime's handling. `after`: the delay follows the
    runtime's response."""
    seed: int | None = None
    """The seed of the random numbers; the same calls get the same delays in each run. null:
    random."""

    def __post_init__(self) -> None:
        if (self.fixed is None) == (self.percentiles is None):
            raise ValueError("delay takes either fixed or percentiles")
        if self.percentiles is not None:
            _check_percentiles(self.percentiles)


def _check_percentiles(percentiles: dict[str, Duration]) -> None:
    if not percentiles:
        raise ValueError("percentiles has to name at least one: {p50: 10ms, p99: 2s}")
    for name in percentiles:
        if not _PERCENTILE.fullmatch(name):
            raise ValueError(f"{name!r} is no percentile; write it like p50 or p99.9")
    ordered = [percentiles[name] for name in sorted(percentiles, key=lambda name: float(name[1:]))]
    if ordered != sorted(ordered):
        raise ValueError("percentiles have to rise: no higher one is shorter than a lower one")


class FaultSpec(Section, frozen=True):
    """A fault: a code, or one of ``hang``, ``cut_after`` and ``drop``."""

    code: Code | None = None
    """The gRPC code with which the call ends. null: the fault is `hang` or `drop`."""
    message: str = ""
    """The status message."""
    hang: bool = False
    """`true`: the call is not answered until its deadline passes or the client cancels it."""
    cut_after: Count | None = None
    """The number of messages after which a server stream ends with `code`. null: the stream is not
    cut."""
    drop: str | bool | None = None
    """A CEL expression over `response`; messages of a server stream for which it is true are not
    delivered. null: none."""
    percentage: Percentage = 100.0
    """The percentage of matching calls (with `drop`: of messages) that are affected."""
    when: When = "before"
    """`before`: the runtime does not receive the call. `after`: the runtime handles the call and
    its response is lost."""
    times: AtLeastOne | None = None
    """The maximum number of times that the fault occurs. null: no limit."""
    for_: Duration | None = field(name="for", default=None)
    """The time after the loading of the rules during which the fault occurs. null: no limit."""
    seed: int | None = None
    """The seed of the random numbers. null: random."""
    i_know: bool = False
    """Has to be `true` for `code: UNIMPLEMENTED`, which a kubelet remembers until it restarts."""

    def __post_init__(self) -> None:
        kinds = [self.hang, self.cut_after is not None, self.drop is not None]
        if sum(kinds) > 1:
            raise ValueError("fault takes one of hang, cut_after and drop")
        if self.hang or self.drop is not None:
            if self.code is not None or self.message:
                raise ValueError("hang and drop take no code and no message: nothing is answered")
            if self.when == "after" and self.drop is not None:
                raise ValueError("drop takes no when: it is about what the runtime answers")
        elif self.code is None:
            raise ValueError("fault needs a code, like UNAVAILABLE, or hang, or drop")
        _check_unimplemented(self.code, self.i_know)


class DenySpec(Section, frozen=True):
    """An answer in the runtime's place."""

    code: Code = "PERMISSION_DENIED"
    """The gRPC code of the answer. The runtime does not receive the call."""
    message: str = ""
    """The status message. Empty: a message that names the rule."""
    i_know: bool = False
    """Has to be `true` for `code: UNIMPLEMENTED`, as with `fault`."""

    def __post_init__(self) -> None:
        _check_unimplemented(self.code, self.i_know)


def _check_unimplemented(code: str | None, i_know: bool) -> None:
    if code == "UNIMPLEMENTED" and not i_know:
        raise ValueError(
            "a kubelet that sees UNIMPLEMENTED once on a Stream* call stops using them until it"
            " restarts; take UNAVAILABLE, or add i_know: true"
        )


class HookSpec(Section, frozen=True):
    """User code that inspects and changes messages: a script or a webhook."""

    script: str | None = None
    """A Python file, relative to the configuration's directory. A hook has either `script` or
    `url`."""
    url: str | None = None
    """The webhook's address: `http://127.0.0.1:8080/path` or `unix:///path.sock:/path`."""
    timeout: Duration = Duration(1)
    """The time that the hook may take for one message."""
    may_deny: bool | None = None
    """Whether the hook may refuse calls; if so, calls fail when the hook fails. With `false`, a
    refusal is an error of the hook. null: `true` for a webhook and for a script that imports
    `Deny`."""

    def __post_init__(self) -> None:
        if (self.script is None) == (self.url is None):
            raise ValueError("hook takes either script or url")
        if self.timeout <= 0:
            raise ValueError("timeout has to be more than 0")

    @property
    def denies(self) -> bool:
        """Whether it may refuse calls, as far as is known before a script is loaded."""
        return self.url is not None if self.may_deny is None else self.may_deny


class LimitSpec(Section, frozen=True):
    """A limit on concurrent calls, and on the calls that wait."""

    in_flight: AtLeastOne
    """Calls that may be in flight at the runtime."""
    per: Literal["method", "caller", "pod"] | None = None
    """Apply the limit separately to each method, caller or pod. null: to all calls of the rule
    together."""
    queue: Count = QUEUE
    """Calls that may wait; further calls end with RESOURCE_EXHAUSTED."""
    wait: Duration | None = None
    """The time that a call may wait. null: until its deadline."""


class RuleSpec(Section, frozen=True):
    """A rule: a match and exactly one action."""

    name: str
    """A unique name, which appears in the log, metrics and error messages."""
    match: MatchSpec
    """Which calls the rule applies to."""
    continue_: bool = field(name="continue", default=False)
    """`true`: later rules are evaluated after this one has acted."""
    mode: RulesMode = "enforce"
    """`dry-run`: the rule only reports what it would do."""
    on_error: OnError | None = None
    """What happens to a call when the rule fails: `pass` or `fail`. null: `fail` for `deny` and
    for a hook that may refuse calls, otherwise `pass`."""
    rewrite: RewriteSpec | None = None
    """Change fields of the request or response, or add request headers."""
    rewrite_images: list[ImagePairSpec] | None = None
    """Rename images in requests, and back in responses."""
    auth: Auth = "drop"
    """What happens to the credentials of a PullImage whose registry is changed by `rewrite`,
    `rewrite_images` or a hook: `drop`, because they are those of the other registry, or `keep`,
    without their `server_address`. Credentials that the rule or the hook itself sets are sent."""
    delay: DelaySpec | None = None
    """Make calls wait."""
    fault: FaultSpec | None = None
    """Make calls fail."""
    deny: DenySpec | None = None
    """Answer calls in the runtime's place."""
    hook: HookSpec | None = None
    """Pass messages to a script or a webhook."""
    limit: LimitSpec | None = None
    """Limit the number of concurrent calls."""

    def __post_init__(self) -> None:
        if not self.name or self.name != self.name.strip() or not self.name.isprintable():
            raise ValueError("name has to be printable text, with no space at its ends")
        given = [action for action in ACTIONS if getattr(self, action) is not None]
        if len(given) != 1:
            has = " and ".join(given) if given else "none"
            raise ValueError(
                f"a rule has exactly one of {', '.join(ACTIONS)}; this has {has}"
                + ("; take two rules, the first with continue: true" if given else "")
            )
        if self.rewrite_images is not None and not self.rewrite_images:
            raise ValueError("rewrite_images has to have at least one pair of from and to")
        if self.auth == "keep" and self.action not in ("rewrite", "rewrite_images", "hook"):
            raise ValueError("auth: keep is for rewrite, rewrite_images and hook")

    @property
    def action(self) -> Action:
        """The one action that the rule has."""
        return next(action for action in ACTIONS if getattr(self, action) is not None)

    @property
    def fails(self) -> bool:
        """Whether a call fails where the rule cannot be evaluated or carried out."""
        if self.on_error is None:
            return self.deny is not None or (self.hook is not None and self.hook.denies)
        return self.on_error == "fail"
