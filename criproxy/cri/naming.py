"""A call's path, as the words that logs and metrics use for it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final, TypeVar

from criproxy.cri.methods import METHODS, Method

T = TypeVar("T")

OTHER: Final = "other"
"""What a service or method that is not in the CRI is called in metrics, so that a client's
invented names do not grow the label set."""

EXECS: Final = frozenset({"Attach", "Exec", "ExecSync", "PortForward"})
"""The methods that give a way into a container or a pod."""

_GROUPS: Final[Mapping[str, Callable[["MethodName"], bool]]] = {
    "@read": lambda named: not named.mutating,
    "@mutating": lambda named: named.mutating,
    "@exec": lambda named: named.method in EXECS,
}

GROUPS: Final = tuple(_GROUPS)
"""Words that stand for methods where a glob may: those known to change nothing, all others, and
those that give a way in (of any service of that name)."""

_LONGEST: Final = 200
"""Characters of an unknown path's parts that are kept for the log."""

_PATHS: Final = 1024
"""Paths that are remembered: the CRI has less than a hundred, the rest is a client's fancy."""

_LONGEST_PATH: Final = 256
"""Bytes of a path that is remembered. None of the CRI's is half as long, and a client may send as
much as a header block takes."""


@dataclass(frozen=True, slots=True)
class MethodName:
    """What is called.

    ``service`` (full: ``runtime.v1.RuntimeService``) and ``method`` are as in the path;
    ``service_label`` and ``method_label`` are the same for the CRI's, and ``other`` for the rest.
    ``api_version`` is None outside the CRI, and such a method counts as mutating.
    """

    service: str
    method: str
    api_version: str | None
    service_label: str
    method_label: str
    server_streaming: bool
    mutating: bool


def by_path(function: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """Have what is worked out of a ``:path`` remembered, for a bounded number of bytes."""
    remembered = lru_cache(maxsize=_PATHS)(function)

    def ask(path: bytes) -> T:
        return remembered(path) if len(path) <= _LONGEST_PATH else function(path)

    return ask


def method_at(path: bytes) -> Method | None:
    """Return the method of the CRI that a runtime calls for a ``:path``.

    The slash that it begins with may be missing: grpc-go has long done without.
    """
    text = path.decode("latin-1")
    return METHODS.get(text) or METHODS.get("/" + text)


@by_path
def resolve(path: bytes) -> MethodName:
    """Name a request's ``:path``. Whatever the bytes are, there is an answer."""
    method = method_at(path)
    if method is not None:
        return MethodName(
            service=method.service,
            method=method.name,
            api_version=method.api_version,
            service_label=method.service,
            method_label=method.name,
            server_streaming=method.server_streaming,
            mutating=method.mutating,
        )
    text = path.decode("ascii", "backslashreplace")
    service, _, name = text.removeprefix("/").rpartition("/")
    return MethodName(
        service=service[:_LONGEST],
        method=name[:_LONGEST],
        api_version=None,
        service_label=OTHER,
        method_label=OTHER,
        server_streaming=False,
        mutating=True,
    )


def matches(pattern: str, named: MethodName) -> bool:
    """Tell whether a pattern names a method: one of GROUPS, or a glob of its short name, of
    ``Service/Method`` or of the full path. What else begins with ``@`` names none."""
    if pattern.startswith("@"):
        group = _GROUPS.get(pattern)
        return group is not None and group(named)
    full = f"{named.service}/{named.method}"
    short = full.rpartition(".")[2] if "." in full else full
    return any(fnmatchcase(name, pattern) for name in (named.method, short, full, "/" + full))
