"""What a listener's profile lets its clients do, and how much of the answers they see.

Whatever a profile does not allow is denied: it is a list of what there is in the CRI, not of what
is known to do harm. A method that is not in the CRI is in no profile but ``full``.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from msgspec import field

from criproxy.configtypes.section import Section
from criproxy.cri.methods import METHODS, Method
from criproxy.cri.naming import GROUPS, matches, resolve
from criproxy.rules.spec import Globs

Scrub = Literal["environment", "info", "mounts"]

FULL: Final = "full"
"""The profile that touches nothing."""


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
"""The profiles that need not be written, beside FULL."""


class ProfileError(Exception):
    """A profile that cannot be used: ``keys`` lead to what is wrong with the configuration."""

    def __init__(self, keys: tuple[str | int, ...], message: str) -> None:
        super().__init__(f"{'.'.join(map(str, keys))}: {message}")
        self.keys = keys
        self.message = message


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile, by its name."""

    name: str
    spec: ProfileSpec
    allowed: Mapping[str, Method]
    """The methods that may be called, by their path."""

    @property
    def bounds_pods(self) -> bool:
        """Whether some pods are out of its clients' reach."""
        return self.spec.own_pod or self.spec.namespaces is not None

    @property
    def looks(self) -> bool:
        """Whether messages have to be looked at."""
        return self.bounds_pods or bool(self.spec.scrub)


def profile_of(name: str, profiles: Mapping[str, ProfileSpec]) -> Profile | None:
    """Return a profile by its name, one of the configuration's ``profiles`` or one that there is
    anyway; None for ``full``. The names are to be checked before, see check_profiles."""
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
    """Refuse profiles that cannot be what was meant.

    ``profiles`` are the configuration's, ``used`` the names that its listeners have, in their
    order. Raises ProfileError.
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
    named = [resolve(path.encode()) for path in METHODS]
    if glob.startswith("@") and glob not in GROUPS:
        raise ProfileError(keys, f"no group is called {glob!r}; there are {', '.join(GROUPS)}")
    if not any(matches(glob, each) for each in named):
        name = glob.rpartition("/")[2]
        names = sorted({each.method for each in named})
        raise ProfileError(
            keys, f"no method of the CRI is called {glob!r}{_suggestion(name, names)}"
        )


def _suggestion(word: str, words: list[str]) -> str:
    close = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
