"""What each profile allows, and what the configuration may say of one."""

from typing import Any

import msgspec
import pytest

from criproxy.cri.methods import METHODS
from criproxy.rules.profiles import pod_visibility as visibility
from criproxy.rules.profiles.profile import (
    ProfileError,
    ProfileSpec,
    check_profiles,
    profile_of,
)


def spec(**keys: Any) -> ProfileSpec:
    return msgspec.convert(keys, ProfileSpec)


def allowed(name: str, **profiles: ProfileSpec) -> set[str]:
    profile = profile_of(name, profiles)
    assert profile is not None
    return set(profile.allowed)


def test_full() -> None:
    """The default profile is none at all: nothing is looked at."""
    assert profile_of("full", {}) is None


def test_read_only() -> None:
    """It allows what is known to change nothing, in both versions of the API."""
    assert allowed("read-only") == {path for path, each in METHODS.items() if not each.mutating}
    profile = profile_of("read-only", {})
    assert profile is not None
    assert set(profile.spec.scrub) == {"environment", "info"}
    assert not profile.restricts_pods


def test_images_only() -> None:
    """It allows all about images, and to ask for the version; nothing of it is looked at."""
    assert allowed("images-only") == {
        path
        for path, each in METHODS.items()
        if each.service.endswith(".ImageService") or each.name == "Version"
    }
    profile = profile_of("images-only", {})
    assert profile is not None
    assert not profile.inspects_messages


@pytest.mark.parametrize(
    ("methods", "names"),
    [
        (["Version"], {"Version"}),
        (["@exec"], {"Exec", "ExecSync", "Attach", "PortForward"}),
        (["List*Stats", "ImageService/Remove*"], {"ListContainerStats", "ListPodSandboxStats"}),
    ],
)
def test_of_the_configuration(methods: list[str], names: set[str]) -> None:
    """It allows what its globs and groups name."""
    got = {METHODS[path].name for path in allowed("mine", mine=spec(methods=methods))}
    assert got - {"RemoveImage"} == names
    assert ("RemoveImage" in got) is (len(methods) > 1)


@pytest.mark.parametrize(
    ("profiles", "used", "keys", "words"),
    [
        ({}, ["full", "readonly"], ("listeners", 1, "profile"), "did you mean 'read-only'?"),
        ({}, ["xyz"], ("listeners", 0, "profile"), "there are full, read-only, images-only"),
        ({"full": spec(methods=["*"])}, [], ("profiles", "full"), "already"),
        ({"read-only": spec(methods=["*"])}, [], ("profiles", "read-only"), "already"),
        ({"a": spec(methods=[])}, [], ("profiles", "a", "methods"), "no methods"),
        (
            {"a": spec(methods=["@read", "ListPod"])},
            [],
            ("profiles", "a", "methods", 1),
            "no method of the CRI is called 'ListPod'",
        ),
        ({"a": spec(methods=["Xyz*"])}, [], ("profiles", "a", "methods", 0), "no method"),
        ({"a": spec(methods=["@reads"])}, [], ("profiles", "a", "methods", 0), "@read, @mutating"),
    ],
)
def test_mistakes(
    profiles: dict[str, ProfileSpec], used: list[str], keys: tuple[Any, ...], words: str
) -> None:
    """What cannot have been meant is refused, with the place and the mend."""
    with pytest.raises(ProfileError) as caught:
        check_profiles(profiles, used)
    assert caught.value.keys == keys
    assert words in caught.value.message


def test_what_is_right() -> None:
    """What can be used is."""
    mine = {"mine": spec(methods=["@read"], namespaces=["a"], own_pod=True)}
    check_profiles(mine, ["full", "read-only", "images-only", "mine", "mine"])


def test_all_messages_are_in_the_tables() -> None:
    """Of every method's messages it is known whose pods they are about."""
    assert [path for path, each in METHODS.items() if not visibility.is_in_tables(each)] == []


def test_a_method_that_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message with a field that is in no table puts its method out of the tables."""
    method = METHODS["/runtime.v1.RuntimeService/ContainerStatus"]
    requests = dict(visibility._REQUESTS)
    requests["ContainerStatusRequest"] = frozenset({"container_id"})
    monkeypatch.setattr(visibility, "_REQUESTS", requests)
    assert not visibility.is_in_tables(method)
    listed = METHODS["/runtime.v1.RuntimeService/ListContainers"]
    assert visibility.is_in_tables(listed)
    items = {key: value for key, value in visibility._ITEMS.items() if key != "Container"}
    monkeypatch.setattr(visibility, "_ITEMS", items)
    assert not visibility.is_in_tables(listed)
