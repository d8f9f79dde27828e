"""A listener's profile: the methods that clients may call, and the pods and fields they may see.

A profile is a list of allowed methods; all others are denied. Methods outside the CRI are allowed
only by the profile ``full``.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from msgspec import field

from criproxy.configtypes.section import Section
from criproxy.cri.methods import FALLBACKS, METHODS, Method
from criproxy.cri.naming import GROUPS, matches, resolve
from criproxy.rules.spec import Globs
from criproxy.wire.grpc import StatusCode

Scrub = Literal["environment", "info", "mounts"]

FULL: Final = "full"
"""The profile without restrictions."""


class ProfileSpec(Section, frozen=True):
    """A profile of the configuration. Everything that it does not allow is denied."""

    methods: Globs
    """What may be called: globs as in rules, or the groups `@read`, `@mutating` and `@exec`."""
    namespaces: Globs | None = None
    """Globs; only pods of these namespaces are accessible. null: all."""
    own_pod: bool = False
    """`true`: only the pod in which the caller runs is accessible."""
    scrub: list[Scrub] = field(default_factory=lambda: ["environment", "info"])
    """What is removed from responses: `environment`, `info` (of verbose responses), `mounts`."""


BUILT_IN: Final[Mapping[str, ProfileSpec]] = {
    "read-only": ProfileSpec(methods=["@read"]),
    "images-only": ProfileSpec(methods=["ImageService/*", "RuntimeService/Version"], scrub=[]),
}
"""The predefined profiles, in addition to FULL."""


class ProfileError(Exception):
    """An invalid profile: ``keys`` is the path of the error within the configuration."""

    def __init__(self, keys: tuple[str | int, ...], message: str) -> None:
        super().__init__(f"{'.'.join(map(str, keys))}: {message}")
        self.keys = keys
        self.message = message


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile and its name."""

    name: str
    spec: ProfileSpec
    allowed: Mapping[str, Method]
    """The methods that may be called, by path."""

    @property
    def restricts_pods(self) -> bool:
        """Whether clients may see only some pods."""
        return self.spec.own_pod or self.spec.namespaces is not None

    def denial_code(self, method: Method) -> StatusCode:
        """Return the code of the denial of a method.

        It is UNIMPLEMENTED where that makes clients fall back to methods that are allowed, or to
        the same method of the older API version; otherwise PERMISSION_DENIED.
        """
        service = method.service
        instead = FALLBACKS.get(method.name)
        falls_back = instead is not None and all(
            f"/{service}/{name}" in self.allowed for name in instead
        )
        older = method.path.replace("/runtime.v1.", "/runtime.v1alpha2.")
        if falls_back or (older != method.path and older in self.allowed):
            return StatusCode.UNIMPLEMENTED
        return StatusCode.PERMISSION_DENIED

    @property
    def inspects_messages(self) -> bool:
        """Whether messages have to be inspected."""
        return self.restricts_pods or bool(self.spec.scrub)


def profile_of(name: str, profiles: Mapping[str, ProfileSpec]) -> Profile | None:
    """Return the profile of a name, None for ``full``.

    ``profiles`` are the configuration's. The name has to be valid, see check_profiles.
    """
    if name == FULL:
        return None
    spec = BUILT_IN.get(name) or profiles[name]
    allowed = {
        path: method
        for path, method in METHODS.items()
        if any(matches(glob, resolve(path.encode())) for glob in spec.methods)
    }
    return Profile(name, spec, allowed)


def check_profiles(profiles: Mapping[str, ProfileSpec], used: Sequence[str]) -> None:
    """Check the configuration's profiles, and the profile names of its listeners in their order.

    Raises ProfileError.
    """
    built_in = [FULL, *BUILT_IN]
    for name, spec in profiles.items():
        if name in built_in:
            what = f"there is a profile {name!r} already; give this one another name"
            raise ProfileError(("profiles", name), what)
        if not spec.methods:
            what = "no methods: nothing could be called; name some, or a group"
            raise ProfileError(("profiles", name, "methods"), what)
        for index, glob in enumerate(spec.methods):
            _check_glob(("profiles", name, "methods", index), glob)
    names = [*built_in, *profiles]
    for index, name in enumerate(used):
        if name not in names:
            hint = _suggestion(name, names) or f"; there are {', '.join(names)}"
            what = f"no profile is called {name!r}{hint}"
            raise ProfileError(("listeners", index, "profile"), what)


def _check_glob(keys: tuple[str | int, ...], glob: str) -> None:
    methods = [resolve(path.encode()) for path in METHODS]
    if glob.startswith("@") and glob not in GROUPS:
        raise ProfileError(keys, f"no group is called {glob!r}; there are {', '.join(GROUPS)}")
    if not any(matches(glob, each) for each in methods):
        name = glob.rpartition("/")[2]
        names = sorted({each.method for each in methods})
        raise ProfileError(
            keys, f"no method of the CRI is called {glob!r}{_suggestion(name, names)}"
        )


def _suggestion(word: str, words: list[str]) -> str:
    close = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
