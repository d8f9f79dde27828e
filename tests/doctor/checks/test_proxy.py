"""criproxy itself."""

import os

import pytest

from criproxy.config.load import parse
from criproxy.doctor.checks.proxy import check
from criproxy.doctor.findings import Outcome
from tests.doctor.nodes import CONFIG, HOST_MOUNTS, PROXY, RUNTIME, Node, said

AUDIT = "/var/log/criproxy/audit.jsonl"
AUDITED = CONFIG + f"audit: {{sinks: [{{file: {{path: {AUDIT}}}}}]}}\n"
HIDING = [*HOST_MOUNTS[:2], "24 22 0:5 / /proc rw - proc proc rw,hidepid=2"]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, whose the files are")


@pytest.fixture
def running(node: Node) -> Node:
    """A node with its runtime, and a criproxy whose audit log is in order."""
    node.process(10, "/usr/bin/containerd", fds=[1])
    node.listens(RUNTIME.path, 1)
    node.listens(PROXY, 3)
    node.file(AUDIT)
    return node


def wrong(node: Node, text: str = AUDITED) -> list[tuple[str, str]]:
    """What is not in order."""
    found = check(node.facts(parse(text, "test")))
    return said([each for each in found if each.outcome is not Outcome.OK])


def start(node: Node, **changes: object) -> None:
    settings = {"fds": [3], **changes}
    node.process(11, "/usr/bin/python3", ["criproxy", "run"], **settings)  # type: ignore[arg-type]


@as_root
def test_all_in_order(running: Node) -> None:
    """A line for the process, for the audit log and for the HTTP endpoint."""
    start(running)
    assert said([*check(running.facts(parse(AUDITED, "test")))]) == [
        ("OK", "criproxy (pid 11, uid 0) can tell who its callers are"),
        ("OK", f"the audit log {AUDIT} (0600 root:root) is on"),
        ("OK", "metrics and pages are served at 127.0.0.1:9440"),
    ]


@as_root
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"uid": 900, "capabilities": "0"},
            ["lacks CAP_SYS_PTRACE: it does not learn which executables its callers are"],
        ),
        ({"uid": 900, "mounts": HIDING}, []),
        (
            {"uid": 900, "capabilities": "0", "mounts": HIDING},
            [
                "lacks CAP_SYS_PTRACE: it does not learn which executables its callers are",
                "sees a /proc with hidepid=2: callers are numbers only",
            ],
        ),
        (
            {"pid_namespace": 2},
            ["is in a PID namespace of its own: callers outside have pid 0 and no name"],
        ),
    ],
)
def test_blind(running: Node, changes: dict[str, object], expected: list[str]) -> None:
    """What keeps criproxy from learning who calls is said."""
    start(running, **changes)
    who = f"criproxy (pid 11, uid {changes.get('uid', 0)})"
    assert wrong(running) == [("WARN", f"{who} {each}") for each in expected]


@as_root
def test_not_running(running: Node) -> None:
    """Without a listener at its endpoints its user is not known."""
    [(outcome, _)] = wrong(running)
    assert outcome == "cannot tell"
    (running.root / AUDIT[1:]).unlink()
    assert wrong(running)[1] == ("cannot tell", f"the audit log {AUDIT} is not there")
    start(running)
    assert wrong(running) == [("FAIL", f"the audit log {AUDIT} is not there")]


def test_no_audit(running: Node) -> None:
    """A criproxy without an audit log is to have one."""
    start(running)
    assert wrong(running, CONFIG) == [
        ("WARN", "there is no audit log: who called is in the call log alone")
    ]


def test_audit_elsewhere(running: Node) -> None:
    """A log that goes to no file has nothing to be looked at."""
    start(running)
    assert wrong(running, CONFIG + "audit: {sinks: [{journald: {}}]}\n") == []


@as_root
@pytest.mark.parametrize(
    ("path", "mode", "gid", "expected"),
    [
        (AUDIT, 0o644, 0, "everybody may read the audit log {0} (0644 root:root)"),
        (AUDIT, 0o640, 4_999, None),
        (AUDIT, 0o660, 4_999, "others than root may write to the audit log {0} (0660 root:4999)"),
        (f"{AUDIT}.1.gz", 0o604, 0, "everybody may read the audit log {0} (0604 root:root)"),
        ("/var/log/criproxy/other.log", 0o644, 0, None),
    ],
)
def test_audit_file(running: Node, path: str, mode: int, gid: int, expected: str | None) -> None:
    """The log and what was rotated away are for root, and for a group that may read."""
    start(running)
    file = running.file(path, mode=mode)
    os.chown(file, 0, gid)
    assert wrong(running) == ([("FAIL", expected.format(file))] if expected else [])


@as_root
def test_audit_directory(running: Node) -> None:
    """Who may write to the log's directory may replace it."""
    start(running)
    directory = (running.root / AUDIT[1:]).parent
    directory.chmod(0o777)
    assert wrong(running) == [
        (
            "FAIL",
            f"the audit log {AUDIT} can be replaced by those who may write to {directory}",
        )
    ]


@pytest.mark.parametrize(
    ("address", "served", "outcome"),
    [
        ('"0.0.0.0:9440"', "0.0.0.0:9440", "WARN"),
        ('"[::]:9440"', "[::]:9440", "WARN"),
        ('"[::1]:9440"', "[::1]:9440", "OK"),
        ('"10.0.0.1:9440"', "10.0.0.1:9440", "OK"),
        ("null", None, "OK"),
    ],
)
def test_metrics(node: Node, address: str, served: str | None, outcome: str) -> None:
    """The HTTP endpoint is not for every network."""
    config = parse(f"{CONFIG}metrics: {{address: {address}}}\n", "test")
    finding = [*check(node.facts(config))][-1]
    assert finding.outcome.value == outcome
    assert (served or "not served") in finding.what
