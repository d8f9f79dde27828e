"""Draws the page at /ui for the documentation: ``python -m tests.support.screenshots``.

What it shows is made up, so that only a change of the page changes the pictures.
"""

from pathlib import Path
from typing import Any, Final

from criproxy.daemon.supervisor.http.ui.application import Ui
from criproxy.daemon.supervisor.http.ui.live_overview import LiveOverview
from criproxy.observe.http import HTTPServer
from tests.overview.states import call, method, pod, start, state
from tests.support.browser import PHONE, UiPage, chromium

DIRECTORY: Final = Path(__file__).parents[2] / "docs/how-to/page"


def scene() -> dict[str, Any]:
    """A node on which a rule holds a pull, and another pod fails."""
    names = {"namespace": "shop", "pod": "web", "pod_uid": "uid-web", "pod_id": "id-web"}
    image = "docker.io/library/nginx:1"
    held = {"slow": True, "rules": ["slow-pull"], "held_s": 31.2, "image": image}
    failing = {
        "kind": "retry",
        "subject": "",
        "seconds": 4.1,
        "text": "wait for another attempt, image pull of registry.example/api:2",
    }
    ended = {
        "cache": ("image pull of docker.io/library/redis:7: 6.4 s of 8.1 s", 8.1),
        "db": ("pod sandbox and its network: 1.2 s of 2.0 s", 2.0),
    }
    return state(
        60.0,
        calls=[
            call("PullImage", 31.2, **names, **held),
            call("ExecSync", 0.3, **names | {"pod": "db"}, container="db"),
        ],
        methods=[
            method("ListContainers", {"OK": 240}, (0.0005, 60), (0.001, 220), (None, 240)),
            method("RunPodSandbox", {"OK": 4}, (0.25, 2), (0.5, 4), (None, 4)),
            method("PullImage", {"OK": 5, "NOT_FOUND": 2}, (1.0, 1), (10.0, 7), (None, 7))
            | {"service": "runtime.v1.ImageService"},
        ],
        pods=[pod(), pod("api", 12.6, state="failing", phase=failing)],
        starts=[start(name, text, seconds=seconds) for name, (text, seconds) in ended.items()],
    )


def main() -> None:
    """Write the pictures."""
    DIRECTORY.mkdir(exist_ok=True)
    desk = {"viewport": {"width": 860, "height": 600}}
    with chromium() as browser:
        for name, options in {
            "light": desk | {"color_scheme": "light"},
            "dark": desk | {"color_scheme": "dark"},
            "phone": {"viewport": PHONE},
        }.items():
            server = HTTPServer("127.0.0.1", 0, Ui(lambda *_: [], LiveOverview(scene, print)))
            shown = UiPage(browser, server.address, **options)
            shown.rows("starts").first.wait_for()
            shown.page.screenshot(path=DIRECTORY / f"{name}.png", full_page=name != "phone")
            shown.close()
            server.close()


if __name__ == "__main__":
    main()
