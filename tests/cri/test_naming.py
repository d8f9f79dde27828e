"""Words that stand for groups of methods."""

import pytest

from criproxy.cri.methods import METHODS, READS
from criproxy.cri.naming import GROUPS, matches, resolve

INVENTED = resolve(b"/runtime.v9.RuntimeService/ListEverything")


@pytest.mark.parametrize("path", METHODS)
def test_groups(path: str) -> None:
    """A method is a read or a change, and some give a way in beside that."""
    named = resolve(path.encode())
    found = {group for group in GROUPS if matches(group, named)}
    ways_in = {"@exec"} if named.method in {"Exec", "ExecSync", "Attach", "PortForward"} else set()
    assert found == ({"@read"} if named.method in READS else {"@mutating"}) | ways_in


def test_what_is_not_known_is_a_change() -> None:
    """A method that nobody has looked at is no read."""
    assert [group for group in GROUPS if matches(group, INVENTED)] == ["@mutating"]


def test_an_exec_of_any_version_is_one() -> None:
    """A way into a container goes by its name, whatever the service."""
    assert matches("@exec", resolve(b"/runtime.v9.RuntimeService/ExecSync"))


def test_a_group_that_is_none() -> None:
    """What begins as a group's name does is no glob, not even of a method called so."""
    assert not matches("@*", INVENTED)
    assert not matches("@reed", resolve(b"/x/@reed"))
