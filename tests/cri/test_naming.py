"""Groups of methods."""

import pytest

from criproxy.cri.methods import METHODS, READS
from criproxy.cri.naming import GROUPS, matches, resolve

INVENTED = resolve(b"/runtime.v9.RuntimeService/ListEverything")


@pytest.mark.parametrize("path", METHODS)
def test_groups(path: str) -> None:
    """A method is in @read or in @mutating, and some are in @exec as well."""
    named = resolve(path.encode())
    found = {group for group in GROUPS if matches(group, named)}
    ways_in = {"@exec"} if named.method in {"Exec", "ExecSync", "Attach", "PortForward"} else set()
    assert found == ({"@read"} if named.method in READS else {"@mutating"}) | ways_in


def test_unknown_methods_are_mutating() -> None:
    """An unknown method is in @mutating."""
    assert [group for group in GROUPS if matches(group, INVENTED)] == ["@mutating"]


def test_exec_of_any_version() -> None:
    """A method is in @exec by its name, in any service."""
    assert matches("@exec", resolve(b"/runtime.v9.RuntimeService/ExecSync"))


def test_unknown_groups() -> None:
    """A pattern with a leading @ is not a glob, not even for a method of that name."""
    assert not matches("@*", INVENTED)
    assert not matches("@reed", resolve(b"/x/@reed"))
