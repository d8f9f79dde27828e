"""The options of ``criproxy run`` have the last word over the file."""

from pathlib import Path

import pytest

from criproxy.cli.support.settings import configured
from criproxy.config.load import parse
from criproxy.config.schema import Config
from criproxy.errors import EndpointError, UsageError

FILE = """\
listeners:
- endpoint: /run/file.sock
  runtime: /run/runtime.sock
  mode: "0600"
log: {format: json, level: error, file: /var/log/x.log}
metrics: {address: "127.0.0.1:1"}
limits: {streams: 7}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(FILE)
    return path


def test_nothing_given() -> None:
    """Without file and options everything is as by default."""
    assert configured(None, {}).config == Config()
    assert configured(None, {"listen": None, "log_level": None}).config == Config()


def test_file_alone(path: Path) -> None:
    """Without options the file counts."""
    assert configured(path, {}).config == parse(FILE, "c.yaml")


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("listen", "/x.sock", FILE.replace("/run/file.sock", "/x.sock")),
        ("runtime_endpoint", "unix:///x.sock", FILE.replace("/run/runtime.sock", "/x.sock")),
        (
            "image_endpoint",
            "/x.sock",
            FILE.replace('  mode: "0600"', '  mode: "0600"\n  image: /x.sock'),
        ),
        ("metrics_address", "[::1]:2", FILE.replace("127.0.0.1:1", "[::1]:2")),
        ("log_format", "console", FILE.replace("json", "console")),
        ("log_level", "debug", FILE.replace("error", "debug")),
    ],
)
def test_option_changes_its_key_alone(path: Path, option: str, value: str, text: str) -> None:
    """Each option changes one key, and leaves the rest of its section as the file has it."""
    loaded = configured(path, {option: value})
    assert loaded.config == parse(text, "c.yaml")
    assert loaded.written == parse(FILE, "c.yaml")


@pytest.mark.parametrize("option", ["listen", "runtime_endpoint", "image_endpoint"])
def test_one_endpoint_for_several_listeners(path: Path, option: str) -> None:
    """Where the file has several listeners, an option for one of them is refused."""
    path.write_text("listeners: [{endpoint: /a}, {endpoint: /b}]")
    with pytest.raises(UsageError, match=r"speak of one listener and .* has 2; change the file"):
        configured(path, {option: "/x.sock"})
    assert configured(path, {"log_level": "debug"}).config.log.level == "debug"


def test_wrong_values() -> None:
    """A wrong value is a user's mistake."""
    with pytest.raises(EndpointError):
        configured(None, {"listen": "tcp://x"})
    with pytest.raises(UsageError, match="--metrics-address: '9440' is not an address"):
        configured(None, {"metrics_address": "9440"})


def test_address_for_the_page(path: Path) -> None:
    """An address that is none for the page is refused where the file enables it."""
    path.write_text("metrics: {ui: true}")
    wanted = r"--metrics-address: ui is for a loopback address, .* metrics.address is \[::\]:1; "
    with pytest.raises(UsageError, match=wanted):
        configured(path, {"metrics_address": "[::]:1"})
    assert configured(path, {"metrics_address": "[::1]:1"}).config.metrics.ui
