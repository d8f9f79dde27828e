"""Setting keys of YAML files in place."""

import json

import pytest
import yaml

from criproxy.errors import UsageError
from criproxy.install.edits.yaml_keys import set_keys

KEY = "containerRuntimeEndpoint"
NEW = "unix:///run/criproxy/criproxy.sock"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", f"{KEY}: {NEW}\n"),
        ("# nothing\n", f"# nothing\n{KEY}: {NEW}\n"),
        ("a: 1", f"a: 1\n{KEY}: {NEW}\n"),
        ("---\na: 1\n...\n", f"---\na: 1\n{KEY}: {NEW}\n...\n"),
        (f"{KEY}: unix:///x # why\nb: [1,  2]\n", f"{KEY}: {NEW} # why\nb: [1,  2]\n"),
        (f'{KEY}: "unix:///x"\nb: 2\n', f'{KEY}: "{NEW}"\nb: 2\n'),
        (f"{KEY}: ''\n", f'{KEY}: "{NEW}"\n'),
        (f"{KEY}:\nb: 2\n", f"{KEY}: {NEW}\nb: 2\n"),
        (f"{KEY}: null\n", f"{KEY}: {NEW}\n"),
        (f'"{KEY}": x\n', f'"{KEY}": {NEW}\n'),
        (f"a:\n  {KEY}: inner\n", f"a:\n  {KEY}: inner\n{KEY}: {NEW}\n"),
        (f'{{"a": 1, "{KEY}": "x"}}\n', f'{{"a": 1, "{KEY}": "{NEW}"}}\n'),
        ('{"a": 1}\n', f'{{"{KEY}": "{NEW}", "a": 1}}\n'),
        ("{}", f'{{"{KEY}": "{NEW}"}}'),
    ],
)
def test_only_the_value_changes(before: str, after: str) -> None:
    """The key has the value; comments, quotes, other keys and the form of the file stay."""
    found = set_keys(before, {KEY: NEW}, "config.yaml")
    assert found == after
    assert yaml.safe_load(found)[KEY] == NEW
    if before.startswith("{"):
        json.loads(found)
    assert set_keys(found, {KEY: NEW}, "config.yaml") == found


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: [\n", "config.yaml:2: not YAML"),
        ("a: 1\n---\nb: 2\n", "config.yaml:2: not YAML"),
        ("- a\n", "config.yaml: not a mapping"),
        (f"{KEY}: [a]\n", f"config.yaml: {KEY} is not a text"),
        (f"x: &x {{{KEY}: a}}\n<<: *x\n", None),
        (f"{KEY}: a\n{KEY}: b\n", f"config.yaml: {KEY} cannot be set here"),
        (f"a: &a old\n{KEY}: *a\n", f"config.yaml: {KEY} cannot be set here"),
    ],
)
def test_what_cannot_be_set(text: str, error: str | None) -> None:
    """A file that is no mapping, or has the key in a way that cannot be edited, is an error that
    names it; keys that are merged into the mapping are overridden."""
    if error is None:
        assert yaml.safe_load(set_keys(text, {KEY: NEW}, "config.yaml"))[KEY] == NEW
        return
    with pytest.raises(UsageError) as raised:
        set_keys(text, {KEY: NEW}, "config.yaml")
    assert str(raised.value).startswith(error)


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [x]\n"
        + "".join(f"a{each}: &a{each} [{f'*a{each - 1}, ' * 9}x]\n" for each in range(1, 30)),
        "a0: &a0 [x, *a0]\n",
    ],
)
def test_aliases_are_not_written_out(text: str) -> None:
    """Aliases whose values would fill the memory, or contain themselves, stay as they are."""
    assert set_keys(text, {KEY: NEW}, "config.yaml") == f"{text}{KEY}: {NEW}\n"


def test_deep_values() -> None:
    """A file as deep as can be parsed is edited; one that is deeper is an error that names it."""
    text = f"a: {'[' * 400}{']' * 400}\n"
    assert set_keys(text, {KEY: NEW}, "config.yaml") == f"{text}{KEY}: {NEW}\n"
    with pytest.raises(UsageError, match=r"config\.yaml: not YAML"):
        set_keys(f"a: {'[' * 1000}{']' * 1000}\n", {KEY: NEW}, "config.yaml")
