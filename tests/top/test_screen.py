"""The screen of ``criproxy top``, driven by its keys."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Static

from criproxy.errors import UnavailableError
from criproxy.top.screen import TopScreen
from docs.generate.pages import blocks
from tests.overview.states import call, method, pod, state

SIZE = 80, 24


class Daemon:
    """Answers with states that a test sets."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = state(
            60.0,
            calls=[
                call("PullImage", 31.2, slow=True, namespace="shop", pod="web", image="nginx"),
                call("ExecSync", 2.0, namespace="shop", pod="db", container="app"),
                call("Version", 0.1),
            ],
            methods=[
                method("Status", {"OK": 60}, (1.0, 60), (None, 60)),
                method("Version", {"OK": 600, "UNKNOWN": 6}, (1.0, 606), (None, 606)),
            ],
            pods=[pod("web"), pod("db", 3.0, state="unfinished")],
        )
        self.error: str = ""

    def ask(self) -> dict[str, Any]:
        if self.error:
            raise UnavailableError(self.error)
        return self.state


Script = Callable[[TopScreen, Pilot[None]], Coroutine[Any, Any, None]]


def drive(daemon: Daemon, script: Script, size: tuple[int, int] = SIZE) -> None:
    async def run() -> None:
        app = TopScreen(daemon.ask, window=60.0, interval=None)
        async with app.run_test(size=size) as pilot:
            await app.refresh_figures()
            await pilot.pause()
            await script(app, pilot)

    asyncio.run(run())


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


def cells(app: TopScreen, source: str) -> list[list[str]]:
    """The texts of a table."""
    table = app.query_one(f"#table-{source}", DataTable)
    return [[str(cell) for cell in table.get_row_at(row)] for row in range(table.row_count)]


def column(app: TopScreen, source: str, number: int) -> list[str]:
    return [row[number] for row in cells(app, source)]


def lines(app: TopScreen) -> list[str]:
    """What is on the screen, line by line."""
    width, height = app.size
    compositor = app.screen._compositor
    strips = compositor.render_strips()
    assert (len(strips), width) == (height, app.size.width)
    return [strip.text for strip in strips]


def summary(app: TopScreen) -> str:
    return str(app.query_one("#summary", Static).content)


def test_a_small_terminal(daemon: Daemon) -> None:
    """At 80 by 24, all three tables are to be seen, with what is oldest, and the keys."""

    async def script(app: TopScreen, pilot: Pilot[None]) -> None:
        shown = lines(app)
        assert len(shown) == 24
        text = "\n".join(shown)
        assert "3 calls in flight, 1 slow; 11.1/s, 0.1 errors/s in 60.0 s; 2 pods" in shown[0]
        for expected in (
            "calls in flight",
            "!31.2 s  PullImage  shop/web nginx",
            "10.1   Version",
            "shop/web  running",
            "31.2 s  image pull of docke…io/library/nginx:1",
            "Details",
            "Filter",
            "Quit",
        ):
            assert expected in text

    drive(daemon, script)


def test_long_names(daemon: Daemon) -> None:
    """Cells that would not fit are cut in the middle, so that all columns are to be seen."""
    name = "a-deployment-with-a-very-long-name-7d9c5b6f4-x2v9q"
    daemon.state = state(60.0, calls=[call(namespace="namespace-of-a-team", pod=name)])

    async def script(app: TopScreen, pilot: Pilot[None]) -> None:
        (row,) = [line for line in lines(app) if "Version" in line and "kubelet" in line]
        assert "namespace-of-a-team/a…-name-7d9c5b6f4-" in row
        assert "x2v9q  kubelet  -" in row

        await pilot.resize_terminal(120, 24)
        await pilot.pause()
        assert f"namespace-of-a-team/{name}" in "\n".join(lines(app))

    drive(daemon, script)


def test_slow_calls_are_red_and_marked(daemon: Daemon) -> None:
    """The cells of a slow call are red, and its age has a mark for terminals without colours."""

    async def script(app: TopScreen, pilot: Pilot[None]) -> None:
        table = app.query_one("#table-calls", DataTable)
        slow, fine = table.get_row_at(0), table.get_row_at(1)
        assert {cell.style.color.name for cell in slow} == {"red"}
        assert {cell.style.color for cell in fine} == {None}
        assert [str(slow[0]), str(fine[0])] == ["!31.2 s", "2.0 s"]

    drive(daemon, script)


def test_without_colours(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """With NO_COLOR nothing on the screen has a hue."""
    monkeypatch.setenv("NO_COLOR", "1")

    async def script(app: TopScreen, pilot: Pilot[None]) -> None:
        assert app.no_color
        colours = {
            segment.style.color.get_truecolor()
            for strip in app.screen._compositor.render_strips()
            for segment in strip.apply_filter(app._filters[-1], app.background_colors[1])
            if segment.style is not None and segment.style.color is not None
        }
        assert all(colour.red == colour.green == colour.blue for colour in colours)

    drive(daemon, script)


def test_order(daemon: Daemon) -> None:
    """s orders the table in focus by its next column, and marks that; tab changes the table."""

    async def script(app: TopScreen, pilot: Pilot[None]) -> None:
        assert column(app, "calls", 1) == ["PullImage", "ExecSync", "Version"]
        await pilot.press("s")
        assert column(app, "calls", 1) == ["ExecSync", "PullImage", "Version"]
        labels = [
            str(each.label) for each in app.query_one("#table-calls", DataTable).columns.values()
        ]
        assert labels == ["AGE", "METHOD*", "POD", "CALLER", "RULES"]
        rates = ["Version", "Status", "PullImage", "ExecSync"]
        assert column(app, "methods", 1) == rates
        await pilot.press("tab", "s")
        assert column(app, "methods", 1) == sorted(rates)
        assert column(app, "calls", 1) == ["ExecSync", "PullImage", "Version"]

    drive(daemon, script)


def test_filter(daemon: Daemon) -> None:
    """/ takes a text, and all tables show the rows with it until escape."""

    async def script(app: TopScreen, pilot: Pilot[None]) -> None:
        await pilot.press("slash", *"shop/db")
        assert column(app, "calls", 1) == ["ExecSync"]
        assert column(app, "pods", 1) == ["shop/db"]
        assert cells(app, "methods") == []
        await pilot.press("enter", "s")
        assert app.query_one("#filter", Input).value == "shop/db"
        assert column(app, "calls", 1) == ["ExecSync"]
        await pilot.press("escape")
        assert len(cells(app, "calls")) == 3

    drive(daemon, script)


def test_pause(daemon: Daemon) -> None:
    """p lets the figures stand, and p lets them go on."""

    async def script(app: TopScreen, pilot: Pilot[None]) -> None:
        await pilot.press("p")
        assert summary(app).startswith("PAUSED: 3 calls")
        daemon.state = state(62.0, calls=[call("Status")])
        await app.refresh_figures()
        assert len(cells(app, "calls")) == 3
        await pilot.press("p")
        await app.refresh_figures()
        assert column(app, "calls", 1) == ["Status"]
        assert summary(app).startswith("1 call in flight")

    drive(daemon, script)


def test_the_cursor_stays_on_its_call(daemon: Daemon) -> None:
    """The cursor stays on its object while older ones end."""

    async def script(app: TopScreen, pilot: Pilot[None]) -> None:
        await pilot.press("down", "down")
        daemon.state = state(62.0, calls=daemon.state["calls"][1:])
        await app.refresh_figures()
        table = app.query_one("#table-calls", DataTable)
        assert str(table.get_row_at(table.cursor_row)[1]) == "Version"

    drive(daemon, script)


def test_details(daemon: Daemon) -> None:
    """Enter shows all of a call or a pod, and escape goes back."""

    async def script(app: TopScreen, pilot: Pilot[None]) -> None:
        await pilot.press("enter")
        await pilot.pause()
        text = "\n".join(lines(app))
        assert "executable" in text
        assert "/usr/bin/kubelet" in text
        daemon.state = state(62.0)
        await app.refresh_figures()
        await pilot.press("escape", "tab", "tab")
        await app.refresh_figures()
        daemon.state = state(64.0, pods=[pod()])
        await app.refresh_figures()
        await pilot.press("enter")
        await pilot.pause()
        assert "still running: 31.2 s of 34.0 s" in "\n".join(lines(app))
        await pilot.press("q")
        assert app.is_running
        await pilot.press("q")

    drive(daemon, script, size=(120, 40))


def test_errors(daemon: Daemon) -> None:
    """A daemon that is gone is told in the summary; what was seen stays, until it is back."""

    async def script(app: TopScreen, pilot: Pilot[None]) -> None:
        daemon.error = "unix:///run/x: Connection refused\x1b"
        await app.refresh_figures()
        assert summary(app) == "unix:///run/x: Connection refused\\x1b"
        assert len(cells(app, "calls")) == 3
        daemon.error = ""
        await app.refresh_figures()
        assert summary(app).startswith("3 calls in flight")

    drive(daemon, script)


def test_calls_that_look_alike(daemon: Daemon) -> None:
    """Two calls that began in the same microsecond are two rows."""
    daemon.state = state(60.0, calls=[call("Version"), call("Version")])

    async def script(app: TopScreen, pilot: Pilot[None]) -> None:
        assert column(app, "calls", 1) == ["Version", "Version"]

    drive(daemon, script)


def test_it_asks_by_itself(daemon: Daemon) -> None:
    """With an interval it asks at the start, and again and again."""
    asked = asyncio.Event()
    counts: list[int] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()

        def ask() -> dict[str, Any]:
            counts.append(1)
            if len(counts) >= 3:
                loop.call_soon_threadsafe(asked.set)
            return daemon.state

        app = TopScreen(ask, window=60.0, interval=0.01)
        async with app.run_test(size=SIZE):
            await asked.wait()

    asyncio.run(run())


def test_the_screen_of_the_guide(daemon: Daemon) -> None:
    """The screen that the guide shows is that of a node on which a rule holds a pull."""
    pull = call("PullImage", 31.2, slow=True, rules=["slow-pull"])
    pull |= {"namespace": "shop", "pod": "web", "image": "docker.io/library/nginx:1"}
    daemon.state = state(
        60.0,
        calls=[pull],
        methods=[
            method("RunPodSandbox", {"OK": 6}, (0.25, 3), (0.5, 6), (None, 6)),
            method("ListContainers", {"OK": 240}, (0.001, 180), (0.0025, 240), (None, 240)),
        ],
        pods=[pod()],
    )

    async def script(app: TopScreen, pilot: Pilot[None]) -> None:
        (block,) = [each for each in blocks("text") if each.page == "docs/how-to/top.md"]
        shown = [line.rstrip() for line in lines(app)]
        assert "\n".join(shown) == block.text.rstrip("\n"), "the guide shows another screen"

    drive(daemon, script)
