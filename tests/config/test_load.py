"""Configuration values, from the file to what the daemon uses."""

from pathlib import Path

import pytest

from criproxy.config.file_states import FileStates
from criproxy.config.load import load, load_rules, parse
from criproxy.config.schema import Config, ListenerConfig
from criproxy.config.show import show
from criproxy.configtypes.values import Duration
from criproxy.errors import ConfigError
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
  held_stream: 1MiB
  held: 2MiB
  drain_timeout: 1h
rules_dir: rules.d
rules_mode: dry-run
rules:
- name: slow-pulls
  match: {methods: [PullImage], where: "caller.uid == 0", callers: {gid: [0]}, listeners: ["*"]}
  continue: true
  delay: {fixed: 2s, jitter: 500ms, percentage: 10}
- name: mirror
  match: {methods: ["*"]}
  mode: dry-run
  rewrite_images: [{from: "docker.io/*", to: "mirror/*"}]
- name: label
  match: {methods: [RunPodSandbox]}
  rewrite: {request: {'config.labels["team"]': '"blue"', config.hostname: null, config.x: 5}}
- name: flaky
  match: {methods: [StartContainer]}
  fault: {code: UNAVAILABLE, when: after, times: 20, for: 10m, seed: 7}
"""


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "null\n", "{}\n"])
def test_empty_file(text: str) -> None:
    """Every key has a default, so an empty file is valid."""
    assert parse(text, "c.yaml") == Config()


@pytest.mark.parametrize("section", ["metrics", "log", "slow", "probe", "limits"])
def test_empty_section(section: str) -> None:
    """Every key of a section has a default."""
    assert parse(f"{section}: {{}}", "c.yaml") == Config()


def test_listeners_have_defaults() -> None:
    """Every key of a listener has a default."""
    assert parse("listeners: [{}]", "c.yaml").listeners == [ListenerConfig()]


def test_every_kind_of_value(tmp_path: Path) -> None:
    """Each value is converted: paths, seconds, bytes, bits, ids."""
    (tmp_path / "rules.d").mkdir()
    path = tmp_path / "c.yaml"
    path.write_text(FULL)
    config = load(path).config
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
    log, probe, limits = config.log, config.probe, config.limits
    assert (log.format, log.level, log.file) == ("console", "warning", "/var/log/criproxy.log")
    assert list(log.methods.items()) == [("List*", "debug"), ("Version", "off")]
    assert config.slow.threshold == 90
    assert list(config.slow.methods.items()) == [("PullImage", 300), ("*", 0)]
    assert (probe.interval, probe.timeout) == (0.5, 1.5)
    assert (limits.connections, limits.runtime_wait, limits.write_buffer) == (7, 0, 65536)
    assert (limits.header_block, limits.message, limits.streams) == (65536, 16 << 20, 3)
    assert limits.drain_timeout == 3600
    assert (limits.held_stream, limits.held) == (1 << 20, 2 << 20)
    assert (config.rules_dir, config.rules_mode) == ("rules.d", "dry-run")
    slow, _, label, flaky = config.rules
    assert slow.continue_
    assert slow.delay is not None
    assert (slow.delay.fixed, slow.delay.jitter, slow.delay.percentage) == (2, 0.5, 10)
    assert label.rewrite is not None
    assert [*label.rewrite.request.values()] == ['"blue"', None, 5]
    assert flaky.fault is not None
    assert flaky.fault.for_ == 600


def test_aliases_and_merges() -> None:
    """YAML's aliases and merge keys are supported."""
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
def test_show_round_trips(text: str) -> None:
    """The YAML of a configuration parses to an equal configuration."""
    config = parse(text, "c.yaml")
    assert parse(show(config), "shown.yaml") == config


def test_show_has_every_key() -> None:
    """The YAML of a configuration has every key, including defaults, in the user's notation."""
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
    """A duration is written in seconds without an exponent."""
    config = Config(slow=Config().slow.__class__(threshold=Duration(seconds)))
    assert f"  threshold: {text}\n" in show(config)


RULE = "- name: {}\n  match: {{methods: [Version]}}\n  {}\n"


def test_rules_of_all_files_in_order(tmp_path: Path) -> None:
    """The file's own rules come first, then those of the directory's rule files by name."""
    directory = tmp_path / "rules.d"
    directory.mkdir()
    deny = "deny: {}"
    (directory / "20.yml").write_text(RULE.format("third", deny) + RULE.format("fourth", deny))
    (directory / "10.yaml").write_text("rules:\n" + RULE.format("second", deny))
    (directory / "30.yaml").write_text("# nothing yet\n")
    for other in (".hidden.yaml", "40.yaml~", "README.md"):
        (directory / other).write_text("no rules: at all")
    (directory / "dir.yaml").mkdir()
    path = tmp_path / "c.yaml"
    path.write_text("rules_dir: rules.d\nrules:\n" + RULE.format("first", deny))
    loaded = load(path)
    assert [each.spec.name for each in loaded.rules] == ["first", "second", "third", "fourth"]
    assert [each.name for each in loaded.config.rules] == ["first"]
    assert str(loaded.rules[3].error(("deny",), "no")) == f"{directory}/20.yml:6: [1].deny: no"


def test_files_that_are_read(tmp_path: Path) -> None:
    """All files of a configuration are recorded, including scripts, and those of an error."""
    (tmp_path / "d").mkdir()
    rules, config = tmp_path / "d" / "r.yaml", tmp_path / "c.yaml"
    rules.write_text(RULE.format("a", "hook: {script: hooks/a.py}"))
    config.write_text("rules_dir: d\nrules:\n" + RULE.format("b", "hook: {url: unix:///x}"))
    assert {*load(config).files} == {config, tmp_path / "d", rules, tmp_path / "hooks" / "a.py"}
    rules.write_text("wrong")
    files = FileStates()
    with pytest.raises(ConfigError):
        load(config, files)
    assert {*files} == {config, tmp_path / "d", rules}


def test_list_of_rules(tmp_path: Path) -> None:
    """A file that is a list of rules, and a configuration, can both be loaded for their rules."""
    path = tmp_path / "r.yaml"
    path.write_text(RULE.format("a", "deny: {}"))
    loaded = load_rules(path)
    assert [each.spec.name for each in loaded.rules] == ["a"]
    assert [each.name for each in loaded.config.rules] == ["a"]
    path.write_text("rules:\n" + RULE.format("a", "deny: {}"))
    assert load_rules(path).config == load(path).config
    path.write_text(RULE.format("a", "deny: {}") * 2)
    with pytest.raises(ConfigError, match="names are unique"):
        load_rules(path)
