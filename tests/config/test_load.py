"""What a file says, as the values that the daemon works with."""

from pathlib import Path

import pytest

from criproxy.config.load import load, parse
from criproxy.config.schema import Config, ListenerConfig
from criproxy.config.show import show
from criproxy.durations import Duration
from criproxy.relay.endpoints import Endpoint

FULL = """\
listeners:
- endpoint: /run/one.sock
  runtime: unix:///run/containerd/containerd.sock
  image: unix://run/images.sock
  mode: "0600"
  owner: "12:34"
- endpoint: unix:///run/two.sock
  owner: ":56"
metrics: {address: "[::1]:9440"}
log:
  format: console
  level: warning
  file: /var/log/criproxy.log
  methods: {"List*": debug, Version: "off"}
slow:
  threshold: 1m30s
  methods: {PullImage: 5m, "*": 0}
probe: {interval: 500ms, timeout: 1.5s}
limits:
  connections: 7
  runtime_wait: 0
  write_buffer: 64KiB
  header_block: 65536
  message: 16 MiB
  streams: 3
  shutdown_grace: 1h
"""


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "null\n", "{}\n"])
def test_nothing_is_the_default(text: str) -> None:
    """Every key has a default, so an empty file is a whole one."""
    assert parse(text, "c.yaml") == Config()


@pytest.mark.parametrize("section", ["metrics", "log", "slow", "probe", "limits"])
def test_empty_section_is_the_default(section: str) -> None:
    """So has every key of a section."""
    assert parse(f"{section}: {{}}", "c.yaml") == Config()


def test_listeners_have_defaults() -> None:
    """A listener needs no key either."""
    assert parse("listeners: [{}]", "c.yaml").listeners == [ListenerConfig()]


def test_every_kind_of_value(tmp_path: Path) -> None:
    """Each value is read as what it means: paths, seconds, bytes, bits, ids."""
    path = tmp_path / "c.yaml"
    path.write_text(FULL)
    config = load(path)
    one, two = config.listeners
    assert (one.endpoint, one.runtime, one.image, one.mode, one.owner) == (
        Endpoint("/run/one.sock"),
        Endpoint("/run/containerd/containerd.sock"),
        Endpoint("/run/images.sock"),
        0o600,
        (12, 34),
    )
    assert (two.runtime, two.image, two.mode, two.owner) == (None, None, None, (None, 56))
    assert config.metrics.address == ("::1", 9440)
    log, slow, probe, limits = config.log, config.slow, config.probe, config.limits
    assert (log.format, log.level, log.file) == ("console", "warning", "/var/log/criproxy.log")
    assert list(log.methods.items()) == [("List*", "debug"), ("Version", "off")]
    assert slow.threshold == 90
    assert list(slow.methods.items()) == [("PullImage", 300), ("*", 0)]
    assert (probe.interval, probe.timeout) == (0.5, 1.5)
    assert (limits.connections, limits.runtime_wait, limits.write_buffer) == (7, 0, 65536)
    assert (limits.header_block, limits.message, limits.streams) == (65536, 16 << 20, 3)
    assert limits.shutdown_grace == 3600


def test_aliases_and_merges() -> None:
    """YAML's own means of saying a thing once may be used."""
    config = parse(
        "slow: {threshold: &t 5s}\nprobe: {interval: *t}\n"
        "listeners:\n- &l {endpoint: /a, runtime: /r}\n- {<<: *l, endpoint: /b}\n",
        "c.yaml",
    )
    assert config.probe.interval == 5
    assert [each.runtime for each in config.listeners] == [Endpoint("/r")] * 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        FULL,
        "metrics: {address: null}",
        "metrics: {address: 'localhost:0'}",
        "slow: {threshold: 2000000s, methods: {a: 100us, b: 1234567ms, c: 0.1s}}",
        "listeners: [{owner: '0', mode: '0'}, {endpoint: /b, owner: ':0', mode: '0777'}]",
    ],
)
def test_shown_and_read_again(text: str) -> None:
    """What is shown of a configuration reads back as the same."""
    config = parse(text, "c.yaml")
    assert parse(show(config), "shown.yaml") == config


def test_everything_is_shown() -> None:
    """What is shown has every key, the defaults too, as a user would write them."""
    shown = show(Config())
    for line in (
        "- endpoint: unix:///run/criproxy/criproxy.sock",
        "  runtime: null",
        "  address: 127.0.0.1:9440",
        "  level: info",
        "  threshold: 30s",
        "  write_buffer: 262144",
    ):
        assert f"{line}\n" in shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (30, "30s"), (0.5, "0.5s"), (1e-7, "0.0000001s"), (3.6e6, "3600000s")],
)
def test_durations_are_shown_in_full(seconds: float, text: str) -> None:
    """A duration is shown in seconds, without an exponent that could not be read back."""
    config = Config(slow=Config().slow.__class__(threshold=Duration(seconds)))
    assert f"  threshold: {text}\n" in show(config)
