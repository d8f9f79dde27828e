"""The page at /ui in Chromium: the cause of a pod start that a rule slowed, on a real containerd;
and of made-up states what it shows, by keyboard, in both colour schemes, and on a phone.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from criproxy.client import CriClient
from criproxy.daemon.supervisor.http.ui import live_overview
from criproxy.daemon.supervisor.http.ui.application import MAX_STREAMS, Ui
from criproxy.daemon.supervisor.http.ui.live_overview import LiveOverview
from criproxy.observe.http import HTTPServer
from tests.e2e.slow_pull import SLOW
from tests.overview.states import call, method, pod, start, state
from tests.support import browser as support
from tests.support.browser import PHONE, UiPage
from tests.support.containerd import Containerd
from tests.support.criproxy import Criproxy
from tests.support.pods import Pods
from tests.support.requirements import require
from tests.support.waiting import LIMIT_SECONDS, wait_until

CONTRASTS = """elements => elements.map(element => {
  const parts = color => color.match(/[0-9.]+/g).map(Number);
  const luminance = color => {
    const [r, g, b] = parts(color).map(each => each / 255).map(
      each => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let behind = element;
  while (parts(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
  const [low, high] = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor]
    .map(luminance).sort((one, other) => one - other);
  return [element.innerText, (high + 0.05) / (low + 0.05)];
})"""
"""The texts of elements, each with the contrast to its background (WCAG 2, "contrast ratio")."""

FOCUSED = "document.activeElement.innerText"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser, for this module alone: playwright's event loop runs in the thread of the tests."""
    require(support.missing())
    with support.chromium() as browser:
        yield browser


class Node:
    """What the page shows."""

    def __init__(self) -> None:
        self.looks = 0
        self.told: dict[str, Any] = {"starts": []}

    def look(self) -> dict[str, Any]:
        self.looks += 1
        return state(float(self.looks), **self.told)


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def ui(node: Node, monkeypatch: pytest.MonkeyPatch) -> Ui:
    monkeypatch.setattr(live_overview, "_INTERVAL", 0.05)
    return Ui(lambda *_: [], LiveOverview(node.look, lambda error: None))


@pytest.fixture
def address(ui: Ui) -> Iterator[str]:
    server = HTTPServer("127.0.0.1", 0, ui)
    yield server.address
    server.close()


@pytest.fixture
def page(chromium: Any, address: str) -> Iterator[UiPage]:
    """The page, to which the browser has no objection."""
    page = UiPage(chromium, address)
    yield page
    page.close()
    assert page.said == []


def fits(page: UiPage, source: str, column: int, texts: list[str]) -> None:
    """Wait until the rows of a table have these texts in a column."""
    wait_until(lambda: [row[column] for row in page.cells(source)] == texts, f"{source} {texts}")


@pytest.mark.e2e
def test_a_pull_that_a_rule_slows(
    runtime: Containerd, image: str, short_dir: Path, chromium: Any
) -> None:
    """The pull in flight is red, then the phase of its pod, and then the cause of the start."""
    config = {
        "metrics": {"ui": True},
        "rules": [SLOW | {"delay": {"fixed": "1h"}}],
        "slow": {"methods": {"PullImage": "1ms"}},
    }
    with (
        Criproxy(short_dir, runtime.endpoint, config=config) as proxy,
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
        Pods(runtime) as pods,
    ):
        page = UiPage(chromium, proxy.event("metrics")["address"])
        pod = pods.pod(client, "slow")
        metadata = {"name": "slow", "uid": "uid-slow", "namespace": "e2e"}
        pull = {"image": {"image": image}, "sandbox_config": {"metadata": metadata}}
        call = client.raw("PullImage").future(client.messages.PullImageRequest(**pull))
        in_flight = page.rows("calls").and_(page.page.locator("[data-color=red]"))
        in_flight.get_by_text(f"e2e/slow {image}").wait_for()
        page.rows("pods").filter(has_text="e2e/slow").get_by_text(
            f"image pull of {image}"
        ).wait_for()
        call.cancel()
        proxy.reload(rules=[SLOW])
        wait_until(lambda: proxy.events("rules loaded"), "rules with a shorter delay")
        client.PullImage(**pull)
        pods.start(client, pod, image={"image": image})
        ended = page.rows("starts").filter(has_text="e2e/slow")
        ended.get_by_text("started").wait_for()
        (cells,) = page.cells("starts")
        assert cells[-1].startswith(f"image pull of {image}, 2 attempts: ")
        assert cells[-1].endswith("held by slow-pull)")
        page.close()
        assert page.said == []


def test_keyboard(page: UiPage, node: Node) -> None:
    """Everything can be reached and done by keyboard, and the focus stays on its row."""
    press = page.page.keyboard.press
    node.told["calls"] = [
        call(name, 30.0 - number) for number, name in enumerate(["Version", "Status", "ExecSync"])
    ]
    fits(page, "calls", 1, ["Version", "Status", "ExecSync"])
    for _ in range(20):
        if page.page.evaluate("document.activeElement.tagName") == "TR":
            break
        press("Tab")
    assert "Version" in page.page.evaluate(FOCUSED)
    press("ArrowDown")
    assert "Status" in page.page.evaluate(FOCUSED)
    node.told["calls"] = [
        call("Status", 29.0) | {"age_s": 31.0},
        call("Version", 30.0),
        call("ExecSync", 28.0),
        call("Attach", 90.0),
    ]
    fits(page, "calls", 1, ["Attach", "Status", "Version", "ExecSync"])
    assert "Status" in page.page.evaluate(FOCUSED)
    press("End")
    assert "ExecSync" in page.page.evaluate(FOCUSED)
    press("Enter")
    page.page.get_by_role("dialog").get_by_text("/usr/bin/kubelet").wait_for()
    press("Escape")
    page.page.get_by_role("dialog").wait_for(state="hidden")
    assert "ExecSync" in page.page.evaluate(FOCUSED)
    press("Shift+Tab")
    press("Shift+Tab")
    press("Shift+Tab")
    press("Shift+Tab")
    assert page.page.evaluate(FOCUSED) == "METHOD"
    press("Enter")
    fits(page, "calls", 1, ["Attach", "ExecSync", "Status", "Version"])
    assert page.page.locator("#table-calls [aria-sort=ascending]").inner_text() == "METHOD"
    press("/")
    page.page.keyboard.type("stat")
    fits(page, "calls", 1, ["Status"])
    press("Escape")
    fits(page, "calls", 1, ["Attach", "ExecSync", "Status", "Version"])
    press("p")
    looks = node.looks
    node.told["calls"] = []
    wait_until(lambda: node.looks > looks + 3, "some more events")
    assert page.page.get_by_role("button", name="Pause").get_attribute("aria-pressed") == "true"
    assert page.page.locator("#summary").inner_text().startswith("PAUSED: 4 calls in flight")
    fits(page, "calls", 1, ["Attach", "ExecSync", "Status", "Version"])
    press("p")
    fits(page, "calls", 1, [])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colour_schemes(chromium: Any, address: str, node: Node, scheme: str) -> None:
    """Each scheme has its background, and all texts a contrast of 4.5 at least (WCAG 2, AA)."""
    node.told = {
        "calls": [call(slow=True), call()],
        "methods": [method("Version", {"UNKNOWN": 1}, (1.0, 1), (None, 1))],
        "pods": [pod()],
        "starts": [start()],
    }
    page = UiPage(chromium, address, color_scheme=scheme)
    page.rows("starts").wait_for()
    background = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(17, 21, 26)"}[scheme]
    texts = page.page.locator("td, th button, p:visible, label, #pause, h2:visible")
    contrasts = dict(texts.evaluate_all(CONTRASTS))
    assert len(contrasts) > 20
    assert {text for text, contrast in contrasts.items() if contrast < 4.5} == set()
    colors = [
        page.rows("calls").nth(number).evaluate("row => getComputedStyle(row).color")
        for number in (0, 1)
    ]
    assert colors[0] == {"light": "rgb(179, 24, 28)", "dark": "rgb(255, 154, 148)"}[scheme]
    assert colors[0] != colors[1]
    assert page.said == []
    page.close()


def test_phone(chromium: Any, address: str, node: Node) -> None:
    """On a narrow screen nothing lies beside it, and each cell has the name of its column."""
    node.told = {"pods": [pod("x" * 250)], "calls": [call("y" * 250)], "starts": [start()]}
    page = UiPage(chromium, address, viewport=PHONE)
    page.rows("starts").wait_for()
    widths = page.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths == [PHONE["width"]] * 2
    cells = page.rows("starts").locator("td")
    names = cells.evaluate_all("cells => cells.map(c => getComputedStyle(c, '::before').content)")
    assert names == ['"ENDED "', '"POD "', '"STATE "', '"TOTAL "', '"CAUSE "']
    tops = cells.evaluate_all("cells => cells.map(cell => cell.getBoundingClientRect().y)")
    assert tops[-1] > tops[0]
    assert page.said == []
    page.close()


def test_names_that_clients_choose(page: UiPage, node: Node) -> None:
    """A name is shown as it is, wherever: it becomes no element, runs nothing, loads nothing."""
    evil = "<img src=/x onerror=evil=1><script>evil=1</script>'\"&amp;${1}"
    named = {"pod": evil, "namespace": evil, "executable": f"/bin/{evil}"}
    node.told = {
        "calls": [call(evil, rules=[evil], **named)],
        "methods": [method(evil, {"OK": 1}, (1.0, 1), (None, 1))],
        "pods": [pod(evil)],
        "starts": [start(evil, evil)],
        "runtime_problem": evil,
    }
    page.rows("starts").wait_for()
    (cells,) = page.cells("calls")
    assert cells[1:] == [evil, f"{evil}/{evil}", evil.rpartition("/")[2], evil]
    assert page.cells("starts")[0][-1] == evil
    assert page.page.locator("#summary").inner_text().endswith(evil)
    page.rows("starts").click()
    page.page.get_by_role("dialog").get_by_text(evil).first.wait_for()
    assert page.page.locator("img, main script, dialog script").count() == 0
    assert page.page.evaluate("typeof evil") == "undefined"


def test_what_the_policy_forbids(chromium: Any, address: str) -> None:
    """Were there something of somebody else in the page, it would make no markup and no style, and
    would reach no other host; the browser says so."""
    page = UiPage(chromium, address)
    page.page.locator("#summary").get_by_text("calls in flight").wait_for()
    for markup in ("body.innerHTML = '<p>'", "createElement('p').setAttribute('onclick', '0')"):
        with pytest.raises(Exception, match="requires 'Trusted"):
            page.page.evaluate(f"document.{markup}")
    page.page.evaluate(
        """() => {
          const style = document.createElement('style');
          style.textContent = 'body { display: none }';
          const image = document.createElement('img');
          image.src = 'http://127.0.0.1:9/';
          document.body.append(style, image);
          return fetch('http://127.0.0.1:9/').catch(() => 0);
        }"""
    )
    assert page.page.locator("body").is_visible()
    wanted = {f"{kind}-src 'self'" for kind in ("style", "img", "connect")}

    def all_said() -> bool:
        page.page.evaluate("0")  # what the browser says is received meanwhile
        return all(any(each in said for said in page.said) for each in wanted)

    wait_until(all_said, "what the browser says")
    page.close()


def test_too_many_look(chromium: Any, address: str, ui: Ui) -> None:
    """A page for which there is no place says so, and tries again."""
    for _ in range(MAX_STREAMS):
        ui._streams.acquire()
    page = UiPage(chromium, address, with_clock=True)
    page.page.locator("#connection").get_by_text("too many look at it").wait_for()
    for _ in range(MAX_STREAMS):
        ui._streams.release()
    page.page.clock.run_for(6000)
    page.page.locator("#connection").get_by_text("Live").wait_for()
    page.close()


def test_daemon_that_is_replaced(chromium: Any, ui: Ui) -> None:
    """The page says that there is no connection, and is live again once there is one."""
    server = HTTPServer("127.0.0.1", 0, ui)
    page = UiPage(chromium, server.address)
    connection = page.page.locator("#connection")
    connection.get_by_text("Live").wait_for()
    server.close()
    connection.get_by_text("No connection").wait_for()
    host, _, port = server.address.rpartition(":")
    server = HTTPServer(host, int(port), ui)
    connection.get_by_text("Live").wait_for()
    page.close()
    server.close()
