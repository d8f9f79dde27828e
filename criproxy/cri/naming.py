"""The names that logs, metrics and rules use for the method of a request's ``:path``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final, TypeVar

from criproxy.cri.methods import METHODS, Method

T = TypeVar("T")

OTHER: Final = "other"
"""The label value of a service or method outside the CRI: names that clients invent must not add
time series."""

EXECS: Final = frozenset({"Attach", "Exec", "ExecSync", "PortForward"})
"""The methods that run a command in a container, or connect to one or to a pod."""

_GROUPS: Final[Mapping[str, Callable[["MethodName"], bool]]] = {
    "@read": lambda name: not name.mutating,
    "@mutating": lambda name: name.mutating,
    "@exec": lambda name: name.method in EXECS,
}

GROUPS: Final = tuple(_GROUPS)
"""The groups of methods that may be written in place of a glob: READS, all other methods, and EXECS
(in any service)."""

_UNKNOWN_NAME_LENGTH: Final = 200
"""Characters that are kept of the service and of the method of an unknown path."""

_CACHED_PATHS: Final = 1024
"""Paths whose result is cached. The CRI has fewer than a hundred; the rest limits what clients can
add."""

_CACHED_PATH_LENGTH: Final = 256
"""Bytes above which a path's result is not cached. The CRI's paths are less than half as long."""


@dataclass(frozen=True, slots=True)
class MethodName:
    """The service and method of a ``:path``.

    ``service`` (``runtime.v1.RuntimeService``) and ``method`` are the path's own; ``service_label``
    and ``method_label`` are equal to them for a method of the CRI, and OTHER for any other.
    ``api_version`` is None outside the CRI; such a method counts as mutating.
    """

    service: str
    method: str
    api_version: str | None
    service_label: str
    method_label: str
    server_streaming: bool
    mutating: bool


def cached_by_path(function: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """Cache a function of a ``:path``, within a bounded number of bytes."""
    cached = lru_cache(maxsize=_CACHED_PATHS)(function)

    def look_up(path: bytes) -> T:
        return cached(path) if len(path) <= _CACHED_PATH_LENGTH else function(path)

    return look_up


def method_at(path: bytes) -> Method | None:
    """Return the method of the CRI that a runtime calls for a ``:path``, None if there is none.

    The leading slash may be missing: older versions of grpc-go accept such a path.
    """
    text = path.decode("latin-1")
    return METHODS.get(text) or METHODS.get("/" + text)


@cached_by_path
def resolve(path: bytes) -> MethodName:
    """Return the names for a request's ``:path``, which may be any bytes."""
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
        service=service[:_UNKNOWN_NAME_LENGTH],
        method=name[:_UNKNOWN_NAME_LENGTH],
        api_version=None,
        service_label=OTHER,
        method_label=OTHER,
        server_streaming=False,
        mutating=True,
    )


def matches(pattern: str, name: MethodName) -> bool:
    """Return whether a pattern matches a method.

    ``pattern`` is one of GROUPS, or a glob that is compared with the method's short name, with
    ``Service/Method`` and with the full path. Any other pattern with a leading ``@`` matches none.
    """
    if pattern.startswith("@"):
        group = _GROUPS.get(pattern)
        return group is not None and group(name)
    full = f"{name.service}/{name.method}"
    short = full.rpartition(".")[2] if "." in full else full
    return any(fnmatchcase(each, pattern) for each in (name.method, short, full, "/" + full))
