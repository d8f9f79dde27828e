"""criproxy's own sockets."""

import os

import pytest

from criproxy.config.load import parse
from criproxy.doctor.checks.listeners import check
from criproxy.doctor.findings import Outcome
from tests.doctor.nodes import CONFIG, PROXY, RUNTIME, SCOPED, Node, said

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, whose the sockets are")


@pytest.fixture
def there(node: Node) -> Node:
    """A node with its sockets as they should be."""
    for path in (RUNTIME.path, PROXY, SCOPED):
        node.socket(path)
    return node


def wrong(node: Node, text: str = CONFIG) -> list[tuple[str, str]]:
    """What is not in order."""
    found = check(node.facts(parse(text, "test")))
    return said([each for each in found if each.outcome is not Outcome.OK])


def test_all_in_order(there: Node) -> None:
    """A line for each listener: its profile, its mode and owner, that it answers."""
    assert said([*check(there.facts())]) == [
        ("OK", f"unix://{PROXY} (profile full, 0660 root:root) answers"),
        ("OK", f"unix://{SCOPED} (profile read-only, 0660 root:root) answers"),
    ]


def test_not_there(there: Node) -> None:
    """A listener's socket that is not there, or is something else, is a failure."""
    (there.root / PROXY[1:]).unlink()
    (there.root / SCOPED[1:]).unlink()
    there.file(SCOPED)
    assert wrong(there) == [
        ("FAIL", f"unix://{PROXY} is not there"),
        ("FAIL", f"unix://{SCOPED} is no socket"),
    ]


def test_bypassed(there: Node) -> None:
    """A bypass that is on is a failure, with the command that ends it."""
    path = there.root / PROXY[1:]
    path.unlink()
    path.symlink_to(RUNTIME.path)
    (found, _) = check(there.facts())
    assert said([found]) == [
        ("FAIL", f"unix://{PROXY} is a link to {RUNTIME.path}: its clients bypass criproxy")
    ]
    assert "criproxy bypass off" in found.remedy


def test_no_answer(there: Node) -> None:
    """So is one that does not answer; to be refused by a profile is an answer."""
    there.answer = {
        PROXY: "connection refused",
        SCOPED: "Version failed with PERMISSION_DENIED: not you",
    }
    assert wrong(there) == [("FAIL", "connection refused")]
    there.answer = {PROXY: f"unix://{PROXY}: permission denied; run it as another user"}
    assert wrong(there) == [
        ("cannot tell", f"whether unix://{PROXY} answers: this user may not connect")
    ]


def test_somebody_else(there: Node) -> None:
    """Another program at a listener's endpoint is not taken for criproxy."""
    there.listens(PROXY, 5)
    there.process(20, "/opt/fake", fds=[5])
    [(outcome, what)] = wrong(there)
    assert outcome == "FAIL"
    assert what.startswith(f"unix://{PROXY} is listened on by pid 20, /opt/fake")


def test_wider_than_the_runtime(there: Node) -> None:
    """A full listener must not admit users whom the runtime and a scoped listener do not."""
    os.chown(there.root / PROXY[1:], 0, 4_999)
    assert wrong(there) == [
        (
            "FAIL",
            f"unix://{PROXY} (0660 root:4999) lets more in than {RUNTIME} (0660 root:root)",
        ),
        (
            "WARN",
            f"unix://{PROXY} (profile full, 0660 root:4999) lets in whom unix://{SCOPED} "
            "(profile read-only, 0660 root:root) does not",
        ),
    ]


def test_scoped_may_be_wider(there: Node) -> None:
    """A listener with fewer rights may have more users."""
    (there.root / SCOPED[1:]).chmod(0o666)
    assert wrong(there) == []


@pytest.mark.parametrize(
    ("allow", "lacking"),
    [
        ("{uid: [0]}", None),
        ("{uid: [0, 4999]}", "uid 4999"),
        ("{gid: [0]}", None),
        ("{gid: [4999, 4998]}", "gid 4999, gid 4998"),
        ("{executable: ['*/agent']}", None),
    ],
)
def test_allowed_and_kept_out(there: Node, allow: str, lacking: str | None) -> None:
    """Who may connect by ``allow`` has to be let in by owner and mode too."""
    there.root.chmod(0o755)
    text = CONFIG.replace("profile: read-only", f"profile: read-only, allow: {allow}")
    expected = f"unix://{SCOPED} allows {lacking}, but its mode and owner do not"
    assert wrong(there, text) == ([("WARN", expected)] if lacking else [])
    os.chown(there.root / SCOPED[1:], 4_999, 4_999)
    (there.root / SCOPED[1:]).chmod(0o666)
    assert wrong(there, text) == []


def test_two_with_every_right(there: Node) -> None:
    """Of two listeners with every right one may have more users, as the runtime's socket has."""
    for path in (RUNTIME.path, PROXY):
        os.chown(there.root / path[1:], 0, 4_999)
    assert wrong(there, CONFIG.replace(", profile: read-only", "")) == []


def test_directory_of_others(there: Node) -> None:
    """Who may write to the directory may put another socket there."""
    (there.root / PROXY[1:]).parent.chmod(0o777)
    assert [what.partition(" can be replaced")[0] for _, what in wrong(there)] == [
        f"unix://{PROXY}",
        f"unix://{SCOPED}",
    ]
