"""The methods that each profile allows, and errors in profiles."""

from typing import Any

import msgspec
import pytest

from criproxy.cri.methods import METHODS
from criproxy.rules.profiles import pod_visibility
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
    """The profile ``full`` has no restrictions."""
    assert profile_of("full", {}) is None


def test_read_only() -> None:
    """It allows the methods that change nothing."""
    assert allowed("read-only") == {path for path, each in METHODS.items() if not each.mutating}
    profile = profile_of("read-only", {})
    assert profile is not None
    assert set(profile.spec.scrub) == {"environment", "info"}
    assert not profile.restricts_pods


def test_images_only() -> None:
    """It allows the image service and Version, and does not inspect messages."""
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
def test_configured_profile(methods: list[str], names: set[str]) -> None:
    """A configured profile allows the methods that its globs and groups match."""
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
def test_errors(
    profiles: dict[str, ProfileSpec], used: list[str], keys: tuple[Any, ...], words: str
) -> None:
    """An invalid profile is an error with its path and how to correct it."""
    with pytest.raises(ProfileError) as caught:
        check_profiles(profiles, used)
    assert caught.value.keys == keys
    assert words in caught.value.message


def test_valid_profiles() -> None:
    """Valid profiles are accepted."""
    mine = {"mine": spec(methods=["@read"], namespaces=["a"], own_pod=True)}
    check_profiles(mine, ["full", "read-only", "images-only", "mine", "mine"])


def test_all_messages_are_in_the_tables() -> None:
    """The tables contain the messages of every method."""
    assert [path for path, each in METHODS.items() if not pod_visibility.is_in_tables(each)] == []


def test_a_method_with_a_new_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message with a field outside the tables excludes its method."""
    method = METHODS["/runtime.v1.RuntimeService/ContainerStatus"]
    requests = dict(pod_visibility._REQUESTS)
    requests["ContainerStatusRequest"] = frozenset({"container_id"})
    monkeypatch.setattr(pod_visibility, "_REQUESTS", requests)
    assert not pod_visibility.is_in_tables(method)
    listed = METHODS["/runtime.v1.RuntimeService/ListContainers"]
    assert pod_visibility.is_in_tables(listed)
    items = {key: value for key, value in pod_visibility._ITEMS.items() if key != "Container"}
    monkeypatch.setattr(pod_visibility, "_ITEMS", items)
    assert not pod_visibility.is_in_tables(listed)
