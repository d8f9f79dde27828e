"""The runtimes' own sockets."""

import os
from pathlib import Path

import pytest

from criproxy.config.load import parse
from criproxy.doctor.checks.access import SocketAccess
from criproxy.doctor.checks.sockets import access_finding, check
from criproxy.doctor.findings import Outcome
from criproxy.doctor.node.facts import gather
from tests.doctor.nodes import CONTAINER, RUNTIME, Node, said

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, whose the sockets are")


@pytest.mark.parametrize(
    ("access", "directory", "outcome", "what"),
    [
        (SocketAccess(0o660, 0, 0), None, Outcome.OK, "it lets root alone in"),
        (SocketAccess(0o666, 0, 0), None, Outcome.FAIL, "it lets everybody in, past criproxy"),
        (
            SocketAccess(0o660, 0, 4_999),
            None,
            Outcome.WARN,
            "it lets the group 4999 in, past criproxy",
        ),
        (
            SocketAccess(0o600, 4_999, 0),
            None,
            Outcome.WARN,
            "it lets the user 4999 in, past criproxy",
        ),
        (
            SocketAccess(0o600, 0, 0),
            Path("/run/x"),
            Outcome.FAIL,
            "it can be replaced by those who may write to /run/x",
        ),
    ],
)
def test_judged(access: SocketAccess, directory: Path | None, outcome: Outcome, what: str) -> None:
    """Root alone is to connect to a runtime, and to write to the directory of its socket."""
    finding = access_finding("it", access, directory)
    assert (finding.outcome, finding.what) == (outcome, what)
    assert bool(finding.remedy) is finding.found


@as_root
def test_others_that_are_there(node: Node) -> None:
    """Other runtimes' sockets are looked at where they are there, each once."""
    node.socket(RUNTIME.path)
    node.socket("/run/docker.sock", 0o666)
    node.file("/run/podman/podman.sock")
    assert said([*check(node.facts())]) == [
        ("OK", f"the runtime's socket {RUNTIME.path} (0660 root:root) lets root alone in"),
        (
            "FAIL",
            "another runtime's socket /run/docker.sock (0666 root:root) lets everybody in, past "
            "criproxy",
        ),
    ]


def test_runtime_that_is_not_there(node: Node) -> None:
    """Of a socket that is not there nothing can be said."""
    assert said([*check(node.facts())]) == [
        ("cannot tell", f"the runtime's socket {RUNTIME.path} is not there")
    ]


def test_socket_out_of_sight(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor of one in a directory that may not be searched."""

    def refuse(path: Path) -> SocketAccess | None:
        raise PermissionError

    monkeypatch.setattr("criproxy.doctor.checks.sockets.access_of", refuse)
    [finding] = check(node.facts())
    assert (finding.outcome, finding.remedy) == (Outcome.CANNOT_TELL, "run it as root")


@as_root
def test_other_ways_in(node: Node) -> None:
    """NRI's, ttrpc's, debug, shims' and CRI-O's sockets are for root alone, too."""
    node.socket(RUNTIME.path)
    node.socket("/run/nri/nri.sock", 0o666)
    node.socket("/run/containerd/debug.sock")
    node.socket("/run/containerd/containerd.sock.ttrpc", 0o622)
    for name, mode in (("0a", 0o600), ("0b", 0o600), ("0c", 0o666)):
        node.socket(f"/run/containerd/s/{name}", mode)
    node.file("/run/containerd/s/x")
    node.socket(f"/run/crio/{CONTAINER}/attach", 0o777)
    found = {what.split(" (")[0]: outcome for outcome, what in said([*check(node.facts())])}
    assert found == {
        f"the runtime's socket {RUNTIME.path}": "OK",
        "containerd's socket for ttrpc /run/containerd/containerd.sock.ttrpc": "FAIL",
        "containerd's debug socket /run/containerd/debug.sock": "OK",
        "the socket for NRI plugins /run/nri/nri.sock": "FAIL",
        "a shim's socket /run/containerd/s/0c": "FAIL",
        "2 of the shims' sockets let root alone in": "OK",
        f"a container's streams /run/crio/{CONTAINER}/attach": "FAIL",
    }


def test_no_runtime_at_all(node: Node) -> None:
    """Where no runtime is found, that is said, with where it was looked for."""
    [finding] = check(gather(node.system, parse("", "test"), []))
    assert finding.outcome is Outcome.CANNOT_TELL
    assert "/run/crio/crio.sock" in finding.what


def test_rootless_runtimes(node: Node) -> None:
    """A user's own runtime is named: criproxy is not in front of it."""
    node.socket(RUNTIME.path)
    node.socket("/run/user/1000/k3s/containerd/containerd.sock")
    findings = [each for each in check(node.facts()) if "rootless" in each.what]
    assert [each.outcome for each in findings] == [Outcome.OK]
    assert "/run/user/1000/k3s/containerd/containerd.sock" in findings[0].what
