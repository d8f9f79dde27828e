"""What the page is sent: texts, in order, and bounded."""

from typing import Any

import msgspec
import pytest

from criproxy.overview import page_form as module
from criproxy.overview.figures import figures
from criproxy.overview.page_form import MAX_ROWS, page_form
from tests.overview.states import call, method, pod, start, state


def sent(starts: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    """The page's form of a state, as it is read from JSON."""
    found = figures(state(10.0, **more)) | {"starts": starts or []}
    form: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(page_form(found)))
    return form


def table(form: dict[str, Any], source: str) -> dict[str, Any]:
    (found,) = [each for each in form["tables"] if each["source"] == source]
    assert isinstance(found, dict)
    return found


def test_tables() -> None:
    """There are calls, pods that start, methods, and starts that have ended; with a summary."""
    form = sent(
        [start()],
        calls=[call(age=1.0), call("PullImage", 31.0, slow=True)],
        methods=[method("Version", {"OK": 10}, (1.0, 10), (None, 10))],
        pods=[pod(), pod("api", 50.0, state="failing")],
    )
    assert form["version"] == 1
    assert form["summary"].startswith("2 calls in flight, 1 slow; ")
    rows = {
        each["source"]: [(row["cells"][0], row["color"]) for row in each["rows"]]
        for each in form["tables"]
    }
    assert rows == {
        "calls": [("!31.0 s", "red"), ("1.0 s", "")],
        "pods": [("50.0 s", "red"), ("34.0 s", "")],
        "methods": [("1.0", ""), ("0.0", "")],
        "starts": [("07:59:30Z", "")],
    }


def test_starts() -> None:
    """A start that has ended has its cause; one without success is red."""
    form = sent([start(), start("api", "image pull of a: 1.0 s of 2.0 s", state="failing")])
    rows = {row["cells"][1]: row for row in table(form, "starts")["rows"]}
    assert rows["shop/db"]["cells"][2:] == [
        "started",
        "3.0 s",
        "image pull of redis: 2.0 s of 3.0 s",
    ]
    assert rows["shop/api"]["color"] == "red"
    assert ["phases 2.kind", "pull"] in rows["shop/api"]["details"]


def test_order() -> None:
    """A row has for each column by what it is ordered: seconds, and not their text."""
    calls = table(sent(calls=[call(age=1.5)]), "calls")
    (row,) = calls["rows"]
    orders = dict(zip([each["name"] for each in calls["columns"]], row["orders"], strict=True))
    assert (orders["AGE"], orders["METHOD"]) == (1.5, "Version")
    assert calls["columns"][0] == {"name": "AGE", "descending": True}


def test_more_calls_than_rows() -> None:
    """The oldest calls have rows, and the others are counted."""
    calls = table(sent(calls=[call(age=float(age)) for age in range(1, MAX_ROWS + 31)]), "calls")
    assert calls["left_out"] == 30
    ages = [row["orders"][0] for row in calls["rows"]]
    assert ages == [float(age) for age in range(MAX_ROWS + 30, 30, -1)]


def test_keys() -> None:
    """Rows have keys of their own, also calls of a client that began at once."""
    rows = table(sent(calls=[call(), call()]), "calls")["rows"]
    assert len({row["key"] for row in rows}) == 2


@pytest.mark.parametrize("name", ["x" * 100_000, "\u202e<b>\x1b[2J\n", "\udc80"])
def test_names_that_clients_choose(name: str) -> None:
    """They are short and printable wherever they are."""
    names = {"pod": name, "namespace": name, "container": name, "image": name, "executable": name}
    ended = start(name, name, pod_uid=name)
    form = sent(
        [ended],
        calls=[call(name, rules=[name], **names)],
        methods=[method(name, {"OK": 1})],
        pods=[pod(name, phase={"kind": "pull", "subject": name, "seconds": 1.0, "text": name})],
    )
    texts = list(strings(form))
    assert len(texts) > 100
    assert all(text.isprintable() for text in texts)
    assert max(map(len, texts)) < 2000


def strings(value: Any) -> Any:
    """Yield all texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from strings(each)


def test_most_details(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row has so many details at most."""
    monkeypatch.setattr(module, "_MAX_DETAILS", 5)
    (row,) = table(sent([start()]), "starts")["rows"]
    assert len(row["details"]) == 5
