"""The sockets of runtimes on a node."""

import pytest

from criproxy.config.load import parse
from criproxy.doctor.node.runtimes import runtimes_of
from criproxy.relay.endpoints import Endpoint
from tests.doctor.nodes import CONFIG, RUNTIME, Node

DOCKER, CRIO = "/run/containerd/containerd.sock", "/run/crio/crio.sock"


def test_named_runtimes(node: Node) -> None:
    """What the option or the configuration names is taken as it is, each once."""
    config = parse(CONFIG, "test")
    assert runtimes_of(config, node.system) == [RUNTIME]
    assert runtimes_of(config, node.system, Endpoint("/x")) == [Endpoint("/x")]


@pytest.mark.parametrize(
    ("existing", "answering", "expected"),
    [
        ([], [], []),
        ([CRIO], [], [CRIO]),
        ([DOCKER, CRIO], [CRIO], [CRIO]),
        ([DOCKER, CRIO], [], [DOCKER]),
    ],
)
def test_found_runtimes(
    node: Node, existing: list[str], answering: list[str], expected: list[str]
) -> None:
    """It is the first that answers the CRI, else the first that is there, else none."""
    for path in existing:
        node.socket(path)
    able = {str(node.system.path(path)) for path in answering}
    node.system.why_no_runtime = lambda path: None if path in able else "no answer"
    found = runtimes_of(parse("", "test"), node.system)
    assert [each.path for each in found] == expected


def test_own_socket(node: Node) -> None:
    """A listener where runtimes usually listen is not taken for one."""
    node.socket(CRIO)
    config = parse(f"listeners: [{{endpoint: {CRIO}}}]", "test")
    assert runtimes_of(config, node.system) == []
