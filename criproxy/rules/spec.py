"""A rule as the configuration has it: every key, its type and its default.

What can be told of a rule by looking at it alone is refused here; what takes the CRI's messages is
refused by :func:`criproxy.rules.ruleset.compile_rules`.
"""

import re
from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta, field

from criproxy.durations import Duration
from criproxy.section import Section

Action: TypeAlias = Literal["rewrite", "rewrite_images", "delay", "fault", "deny", "hook", "limit"]
RulesMode: TypeAlias = Literal["enforce", "dry-run"]
OnError: TypeAlias = Literal["pass", "fail"]
When: TypeAlias = Literal["before", "after"]

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
"""A name of criproxy.wire.grpc.StatusCode. OK is none of them: it would be an answer without its
message, which no client takes."""

Percentage: TypeAlias = Annotated[float, Meta(ge=0, le=100)]
Count: TypeAlias = Annotated[int, Meta(ge=0)]
AtLeastOne: TypeAlias = Annotated[int, Meta(ge=1)]
Globs: TypeAlias = list[str]

CelValue: TypeAlias = str | bool | int | float
"""CEL as text; any other scalar stands for itself."""

Assignments: TypeAlias = dict[str, CelValue | None]
"""Field paths, and what they are set to; None clears."""

QUEUE: Final = 100
"""Calls that wait for a limit unless the rule says how many: more than a kubelet has pods by
default would all be late, fewer would refuse what it asks for when a node starts."""

_HEADER: Final = re.compile(r"[0-9a-z_.-]+")
_RESERVED: Final = frozenset(
    {"connection", "content-length", "content-type", "host", "te", "transfer-encoding"}
)
_PERCENTILE: Final = re.compile(r"p(\d{1,2}(\.\d+)?|100)")


class CallersSpec(Section, frozen=True):
    """Whose calls: one of each of the lists that are given."""

    uid: list[int] | None = None
    gid: list[int] | None = None
    executable: Globs | None = None
    """Globs of paths. An executable that is not known is the empty string, as in CEL."""
    unit: Globs | None = None
    """Globs of systemd units. One that is not known is the empty string."""
    kubelet: bool | None = None
    """Whether the caller is the node's kubelet."""


class MatchSpec(Section, frozen=True):
    """Which calls a rule is for."""

    methods: Globs
    where: str | bool | None = None
    """CEL that says true or false."""
    callers: CallersSpec | None = None
    listeners: Globs | None = None

    def __post_init__(self) -> None:
        if not self.methods:
            raise ValueError('methods has to name at least one; ["*"] is all of them')
        if self.listeners is not None and not self.listeners:
            raise ValueError("listeners has to name at least one; leave it out for all of them")


class MetadataSpec(Section, frozen=True):
    """Request headers that a rule adds: names, and CEL strings."""

    add: dict[str, str]

    def __post_init__(self) -> None:
        for name in self.add:
            if not _HEADER.fullmatch(name):
                raise ValueError(
                    f"{name!r} is no name of a header: lower-case letters, digits, _ . and -"
                )
            if name.startswith("grpc-") or name in _RESERVED:
                raise ValueError(f"{name!r} is gRPC's own header, which rules leave alone")


class RewriteSpec(Section, frozen=True):
    """What is changed of a call's messages and headers."""

    request: Assignments = field(default_factory=dict)
    response: Assignments = field(default_factory=dict)
    metadata: MetadataSpec | None = None

    def __post_init__(self) -> None:
        if not self.request and not self.response and not (self.metadata and self.metadata.add):
            raise ValueError("rewrite has to set something in request, response or metadata")


class ImagePairSpec(Section, frozen=True):
    """A pattern of image names with one ``*``, and what they are called at the runtime."""

    from_: str = field(name="from")
    to: str


class DelaySpec(Section, frozen=True):
    """How long calls are kept waiting: in seconds."""

    fixed: Duration | None = None
    jitter: Duration = Duration(0)
    percentiles: dict[str, Duration] | None = None
    """``p50`` and the like; in between it is drawn on a straight line."""
    percentage: Percentage = 100.0
    when: When = "before"
    seed: int | None = None

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
    """What goes wrong: a code, or one of ``hang``, ``cut_after`` and ``drop``."""

    code: Code | None = None
    message: str = ""
    hang: bool = False
    """Never answered: until the deadline, or until the client cancels."""
    cut_after: Count | None = None
    """A server stream ends with the code after so many messages."""
    drop: str | bool | None = None
    """CEL over ``response``: those messages of a server stream never arrive."""
    percentage: Percentage = 100.0
    when: When = "before"
    times: AtLeastOne | None = None
    for_: Duration | None = field(name="for", default=None)
    """Seconds from the loading of the rules on."""
    seed: int | None = None
    i_know: bool = False

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
    """The answer in the runtime's place."""

    code: Code = "PERMISSION_DENIED"
    message: str = ""
    i_know: bool = False

    def __post_init__(self) -> None:
        _check_unimplemented(self.code, self.i_know)


def _check_unimplemented(code: str | None, i_know: bool) -> None:
    if code == "UNIMPLEMENTED" and not i_know:
        raise ValueError(
            "a kubelet that sees UNIMPLEMENTED once on a Stream* call stops using them until it"
            " restarts; take UNAVAILABLE, or add i_know: true"
        )


class HookSpec(Section, frozen=True):
    """Code of the user's that looks at messages: a script, or a webhook."""

    script: str | None = None
    """A Python file, relative to the configuration's directory."""
    url: str | None = None
    timeout: Duration = Duration(1)
    may_deny: bool | None = None
    """None: what the hook is able to do. A webhook is, and a script that has Deny."""

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
    """How many calls may be at the runtime at a time, and how many may wait how long for it."""

    in_flight: AtLeastOne
    per: Literal["method", "caller", "pod"] | None = None
    """None: all that the rule matches, together."""
    queue: Count = QUEUE
    wait: Duration | None = None
    """None: as long as the call's deadline lets it."""


class RuleSpec(Section, frozen=True):
    """One rule: which calls, and the one thing to be done about them."""

    name: str
    match: MatchSpec
    continue_: bool = field(name="continue", default=False)
    mode: RulesMode = "enforce"
    on_error: OnError | None = None
    """None: fail for what is there to refuse (deny, a hook that may), else pass."""
    rewrite: RewriteSpec | None = None
    rewrite_images: list[ImagePairSpec] | None = None
    delay: DelaySpec | None = None
    fault: FaultSpec | None = None
    deny: DenySpec | None = None
    hook: HookSpec | None = None
    limit: LimitSpec | None = None

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
