"""The tables of ``criproxy top``."""

from criproxy.overview.figures import figures
from criproxy.overview.tables import CALLS, METHODS, PODS, describe, summary, table
from tests.overview.states import call, method, pod, state


def test_calls() -> None:
    """Calls are in order of age, the oldest first; one that is slow is red and marked."""
    named = {"namespace": "shop", "pod": "web", "container": "app", "image": "nginx"}
    ids = {"pod_id": "0123456789abcdef", "executable": None, "image": "nginx"}
    calls = [call(age=1.0, **ids), call("ExecSync", 99.0, slow=True, rules=["a", "b"], **named)]
    rows, styles = table(CALLS, {"calls": calls})
    assert rows == [
        ("AGE", "METHOD", "POD", "CALLER", "RULES"),
        ("!99.0 s", "ExecSync", "shop/web/app", "kubelet", "a,b"),
        ("1.0 s", "Version", "0123456789abc nginx", "4711", "-"),
    ]
    assert styles[1:] == [{"fg": "red"}, {}]


def test_methods() -> None:
    """Methods are in order of rate; one with errors is marked by its style."""
    found = figures(
        state(
            10.0,
            methods=[
                method("Status", {"OK": 1}, (1.0, 1), (None, 1)),
                method("Version", {"OK": 90, "UNKNOWN": 10}, (1.0, 100), (None, 100)),
            ],
        )
    )
    rows, styles = table(METHODS, found)
    assert rows == [
        ("RATE", "METHOD", "NOW", "ERRORS", "P50", "P95", "P99"),
        ("10.0", "Version", "0", "10", "500 ms", "950 ms", "990 ms"),
        ("0.1", "Status", "0", "0", "500 ms", "950 ms", "990 ms"),
    ]
    assert styles[1:] == [{"fg": "yellow"}, {}]


def test_pods() -> None:
    """A pod has its phase with the time in it; one that fails is red."""
    rows, styles = table(PODS, {"pods": [pod(), pod("db", 50.0, state="failing")]})
    assert rows[1:] == [
        ("50.0 s", "shop/db", "failing", "31.2 s", "image pull of docker.io/library/nginx:1"),
        ("34.0 s", "shop/web", "running", "31.2 s", "image pull of docker.io/library/nginx:1"),
    ]
    assert styles[1:] == [{"fg": "red"}, {}]


def test_filter_and_order() -> None:
    """Rows have a text in one of their cells, in any case, and are in order of a column."""
    found = {"calls": [call("Version"), call("Status"), call("ExecSync", pod="x", namespace="Y")]}
    method_column = CALLS.columns[1]
    rows = CALLS.rows(found, "", method_column)
    assert [cells[1] for _, cells in rows] == ["ExecSync", "Status", "Version"]
    assert [cells[1] for _, cells in CALLS.rows(found, "STAT")] == ["Status"]
    assert [cells[1] for _, cells in CALLS.rows(found, "y/x")] == ["ExecSync"]


def test_summary() -> None:
    """The summary counts calls and pods, and tells what is wrong with the runtime."""
    found = figures(
        state(
            10.0,
            calls=[call(slow=True), call()],
            methods=[method("Version", {"OK": 100, "UNKNOWN": 1})],
            pods=[pod()],
            runtime_problem="runtime unix:///run/x: no answer\x1b",
        )
    )
    assert summary(found) == (
        "2 calls in flight, 1 slow; 10.1/s, 0.1 errors/s in 10.0 s; 1 pod starting; "
        "runtime unix:///run/x: no answer\\x1b"
    )


def test_texts_cannot_steer_the_terminal() -> None:
    """What clients choose is made printable in cells and details."""
    evil = call(method="\x1b[2J", pod="a\nb", namespace="n", executable="/\x07", rules=["\x1b"])
    rows, _ = table(CALLS, {"calls": [evil]})
    assert all(cell.isprintable() for row in rows for cell in row)
    assert all(text.isprintable() for _, text in describe(evil))


def test_details() -> None:
    """All fields of an object are told, those within it by their paths."""
    details = dict(describe(pod()))
    assert details["cause.kind"] == "pull"
    assert details["phases 2.seconds"] == "31.2"
    assert details["phases 1.subject"] == "-"
    assert dict(describe(call(rules=["a", "b"])))["rules"] == "a, b"
