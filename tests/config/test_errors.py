"""Errors in a file are one line: file, line, key, and how to correct it."""

from pathlib import Path

import pytest

from criproxy.config.load import load, parse
from criproxy.errors import ConfigError

NESTED = 3000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # not YAML, or not a mapping
        ("a: b: c", "c.yaml:1: not YAML: mapping values are not allowed here"),
        ("log:\n\tlevel: info", "c.yaml:2: not YAML: found character '\\t' that cannot start any "),
        ("log: {level: info", "c.yaml:1: not YAML: "),
        ("log: !!python/none x", "c.yaml:1: not YAML: could not determine a constructor"),
        ("--- {}\n--- {}\n", "c.yaml:2: not YAML: but found another document"),
        ("log: \x01", "c.yaml: not YAML: unacceptable character #x0001"),
        ("log: !!int abc", "c.yaml:1: not YAML: invalid literal for int"),
        ("slow: {threshold: 2026-13-45}", "c.yaml:1: not YAML: month must be in 1..12"),
        ("listeners: &a [*a]", "c.yaml:1: contains itself"),
        ("[" * NESTED, "c.yaml: is nested too deeply"),
        ("- a\n- b\n", "c.yaml:1: Expected a mapping, got a list"),
        ("\njust words\n", "c.yaml:2: Expected a mapping, got `str`"),
        ("7", "c.yaml:1: Expected a mapping, got `int`"),
        ("log:\n  ? [a, b]\n  : 1", "c.yaml:2: a key has to be text, not a list or a mapping"),
        ("log: {}\n? {a: b} : 1", "c.yaml:2: a key has to be text, not a list or a mapping"),
        (
            "log: {methods: {off: debug}}",
            "c.yaml:1: off: a key has to be text, and this is bool; quo",
        ),
        ("log: !!int ''", "c.yaml:1: not YAML: this is no int"),
        ("log: !!timestamp x", "c.yaml:1: not YAML: this is no timestamp"),
        ("slow: {threshold: .inf}", "c.yaml:1: not YAML: .inf is not a finite number"),
        (
            'rules_dir: "a\\0"',
            "c.yaml:1: not YAML: the text has a NUL character or half a surrogate",
        ),
        ('log: {file: "\\ud800"}', "c.yaml:1: not YAML: the text has a NUL character or half a"),
        ('log: "\\U00110000"', "c.yaml: not YAML: "),
        ('"\\e[2K\\n": 1', 'c.yaml:1: ["\\u001b[2K\\n"]: no such key; there are '),
        (
            "a: &a {endpoint: /x}\nlisteners:\n- <<: *a\n  mode: 0\n",
            "c.yaml:1: a: no such key",
        ),
        (
            "listeners:\n- &a {endpoint: /x, mode: '1'}\n- <<: *a\n  endpoint: /y\n  mode: 5\n",
            "c.yaml:5: listeners[1].mode: a file mode has to be quoted",
        ),
        (
            "- &a [x, x]\n- &b [*a, *a]\n- &c [*b, *b]\n" + "- [*c, *c]\n" * 3,
            "c.yaml:1: Expected a mapping, got a list",
        ),
        (
            "rules_mode: '` - at `$.log`'",
            "c.yaml:1: rules_mode: Invalid enum value '` - at `$.log`'",
        ),
        # unknown and repeated keys
        ("lissteners: []", "c.yaml:1: lissteners: no such key; did you mean 'listeners'?"),
        ("log:\n  levle: info", "c.yaml:2: log.levle: no such key; did you mean 'level'?"),
        ("limits: {xyz: 1}", "c.yaml:1: limits.xyz: no such key; there are connections, "),
        (
            "listeners:\n- endpoint: /a\n- runtme: /b\n",
            "c.yaml:3: listeners[1].runtme: no such key; did you mean 'runtime'?",
        ),
        ("log: {}\nprobe: {}\nlog: {}\n", "c.yaml:3: log: stands there twice; keep one"),
        ("log:\n  file: a\n  file: b\n", "c.yaml:3: file: stands there twice; keep one"),
        ("listeners:\n- mode: '1'\n  mode: '2'\n", "c.yaml:3: mode: stands there twice; keep one"),
        # values of the wrong kind
        ("log: 7", "c.yaml:1: log: Expected a mapping, got `int`"),
        ("log:", "c.yaml:1: log: Expected a mapping, got `null`"),
        ("listeners: {}", "c.yaml:1: listeners: Expected a list, got a mapping"),
        ("listeners: [/a]", "c.yaml:1: listeners[0]: Expected a mapping, got `str`"),
        ("log: {file: 7}", "c.yaml:1: log.file: Expected `str | null`, got `int`"),
        (
            "log:\n  level: verbose",
            "c.yaml:2: log.level: Invalid enum value 'verbose'; there are 'debug', 'info', "
            "'warning', 'error'",
        ),
        (
            "log: {format: xml}",
            "c.yaml:1: log.format: Invalid enum value 'xml'; there are 'json', 'console'",
        ),
        (
            "log:\n  methods:\n    List*: loud",
            "c.yaml:2: log.methods: Invalid enum value 'loud'; there are 'debug', 'info', "
            "'warning', 'error', 'off'",
        ),
        (
            "log: {methods: {Version: off}}",  # YAML's off is False
            "c.yaml:1: log.methods: Expected `str`, got `bool`",
        ),
        ("limits: {streams: many}", "c.yaml:1: limits.streams: Expected `int`, got `str`"),
        # endpoints, durations, sizes, modes, owners, addresses
        (
            "listeners:\n- endpoint: tcp://h:1",
            "c.yaml:2: listeners[0].endpoint: endpoint 'tcp://h:1': scheme 'tcp' is not supported; "
            "write it as unix:///path/to.sock",
        ),
        ("listeners: [{runtime: x.sock}]", "c.yaml:1: listeners[0].runtime: endpoint 'x.sock': "),
        ("listeners: [{image: 7}]", "c.yaml:1: listeners[0].image: expected an endpoint, got 7"),
        (
            "slow: {threshold: soon}",
            "c.yaml:1: slow.threshold: 'soon' is not a duration; write it like 30s, 500ms or 1m30s",
        ),
        ("slow: {threshold: 30}", "c.yaml:1: slow.threshold: '30' is not a duration; write "),
        ("slow: {threshold: 1.5}", "c.yaml:1: slow.threshold: expected a duration, got 1.5"),
        ("slow: {threshold: true}", "c.yaml:1: slow.threshold: expected a duration, got True"),
        ("slow: {methods: {PullImage: 5}}", "c.yaml:1: slow.methods: '5' is not a duration; "),
        ("probe:\n  interval: -1s", "c.yaml:2: probe.interval: '-1s' is not a duration; write "),
        (
            "slow: {threshold: 999999h}",
            "c.yaml:1: slow.threshold: '999999h' is longer than a hundred",
        ),
        (
            "limits: {write_buffer: 1 MB}",
            "c.yaml:1: limits.write_buffer: '1 MB' is not a size; write it like 65536, 64KiB ",
        ),
        ("limits: {header_block: -1}", "c.yaml:1: limits.header_block: '-1' is not a size; "),
        ("limits: {message: yes}", "c.yaml:1: limits.message: expected a size, got True"),
        (
            "listeners:\n- mode: 0660",
            'c.yaml:2: listeners[0].mode: a file mode has to be quoted, "0660": YAML reads it as '
            "432 here",
        ),
        ("listeners: [{mode: '0999'}]", "c.yaml:1: listeners[0].mode: '0999' is not a file mode; "),
        ("listeners: [{mode: '07777'}]", "c.yaml:1: listeners[0].mode: '07777' is not a file "),
        ("listeners: [{owner: no-such}]", "c.yaml:1: listeners[0].owner: there is no user "),
        ("listeners: [{owner: 0}]", "c.yaml:1: listeners[0].owner: expected an owner, got 0"),
        (
            "metrics: {address: localhost}",
            "c.yaml:1: metrics.address: 'localhost' is not an address; write it like "
            "127.0.0.1:9440 or [::1]:9440",
        ),
        ("metrics: {address: '::1'}", "c.yaml:1: metrics.address: '::1' is not an address; "),
        ("metrics: {address: 'h:65536'}", "c.yaml:1: metrics.address: 'h:65536' is not an "),
        ("metrics: {address: 9440}", "c.yaml:1: metrics.address: expected an address, got 9440"),
        (
            "audit:\n  redact:\n    values:\n    - a+\n    - (?<=x)y\n",
            "c.yaml:5: audit.redact.values[1]: '(?<=x)y' is no regular expression: invalid perl "
            "operator: (?<=; RE2 has no look-around",
        ),
        # values that do not go together
        (
            "metrics:\n  address: 0.0.0.0:9440\n  ui: true",
            "c.yaml:1: metrics: ui is for a loopback address, because the page has no "
            "authentication, and metrics.address is 0.0.0.0:9440; set it to 127.0.0.1:9440, or ",
        ),
        (
            "metrics: {address: 'node-1:9440', ui: true}",
            "c.yaml:1: metrics: ui is for a loopback address, because",
        ),
        (
            "metrics: {address: null, ui: true}",
            "c.yaml:1: metrics: ui needs an address, and metrics.address is null; set it to ",
        ),
        (
            "admin: {ui: true}",
            "c.yaml:1: admin: ui needs a socket, and admin.socket is null; set it, for example ",
        ),
        ("log: {}\nlisteners: []", "c.yaml:1: listeners has to name at least one; leave it out"),
        (
            "listeners:\n- endpoint: /a\n- endpoint: unix:///a\n",
            "c.yaml:1: two listeners have the endpoint unix:///a",
        ),
        ("probe:\n  interval: 0", "c.yaml:1: probe: interval and timeout have to be more than 0"),
        ("limits: {connections: 0}", "c.yaml:1: limits: connections has to be at least 1"),
        ("limits: {streams: 0}", "c.yaml:1: limits: write_buffer, header_block and streams have "),
        ("limits: {message: 0}", "c.yaml:1: limits: message has to be at least 1"),
    ],
)
def test_error(text: str, expected: str) -> None:
    """Each error is one line that names the location and the correction."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "c.yaml")
    message = str(caught.value)
    assert message.startswith(expected), message
    assert "\n" not in message
    assert caught.value.exit_code == 2


def test_absent_file(tmp_path: Path) -> None:
    """A missing file is named."""
    path = tmp_path / "absent.yaml"
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory") as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_directory(tmp_path: Path) -> None:
    """A directory is not a file."""
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)


def test_not_text(tmp_path: Path) -> None:
    """A file that is not UTF-8 is an error."""
    path = tmp_path / "latin1.yaml"
    path.write_bytes("log: {file: ü}".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin1\.yaml: is not UTF-8 text"):
        load(path)


RULE = "- name: {}\n  match: {{methods: [Version]}}\n  deny: {{}}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rules: 7", "c.yaml:1: rules: Expected a list, got `int`"),
        ("rules:\n- {name: a}", "c.yaml:2: rules[0]: Object missing required field `match`"),
        (
            "rules:\n- name: a\n  match: {methods: []}\n  deny: {}",
            "c.yaml:3: rules[0].match: methods has to name at least one",
        ),
        (
            "rules:\n- name: a\n  match: {methods: [x]}\n  dney: {}",
            "c.yaml:4: rules[0].dney: no such key; did you mean 'deny'?",
        ),
        (
            "rules:\n- name: a\n  match: {methods: [x]}\n  rewrite_images:\n  - form: a*\n",
            "c.yaml:5: rules[0].rewrite_images[0].form: no such key; did you mean 'from'?",
        ),
        (
            "rules:\n- name: a\n  match: {methods: [x]}\n  deny:\n    code: FORBIDDEN\n",
            "c.yaml:5: rules[0].deny.code: Invalid enum value 'FORBIDDEN'; there are 'CANCELLED', ",
        ),
        (
            "rules:\n- name: a\n  match: {methods: [x]}\n  delay:\n    fixed: 5\n",
            "c.yaml:5: rules[0].delay.fixed: '5' is not a duration; write it like ",
        ),
        (
            "rules:\n- name: a\n  match: {methods: [x]}\n",
            "c.yaml:2: rules[0]: a rule has exactly one of rewrite, ",
        ),
        ("rules_mode: dryrun", "c.yaml:1: rules_mode: Invalid enum value 'dryrun'; there are "),
        ("limits: {held: 0}", "c.yaml:1: limits: held_stream and held have to be at least 1"),
    ],
)
def test_error_in_a_rule(text: str, expected: str) -> None:
    """An error in a rule has its line as well."""
    test_error(text, expected)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def error_of(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return str(caught.value)


def test_error_in_a_file_of_rules_dir(tmp_path: Path) -> None:
    """An error in a file of ``rules_dir`` names that file; the items of a list have an index."""
    config = write(tmp_path / "c.yaml", "rules_dir: d\n")
    one = write(tmp_path / "d" / "one.yaml", "- name: a\n  match: {methods: []}\n")
    assert error_of(config).startswith(f"{one}:2: [0].match: methods has to name at least one")
    write(one, "rules:\n- nmae: a\n")
    assert error_of(config) == f"{one}:2: rules[0].nmae: no such key; did you mean 'name'?"
    write(one, "7")
    assert error_of(config) == f"{one}:1: Expected a mapping, got `int`"
    write(one, "rulez: []")
    assert error_of(config) == f"{one}:1: rulez: no such key; did you mean 'rules'?"
    one.write_bytes(b"\xff")
    assert error_of(config).startswith(f"{one}: is not UTF-8 text: ")


def test_absent_rules_dir(tmp_path: Path) -> None:
    """A missing directory is an error at the key that names it."""
    config = write(tmp_path / "c.yaml", "log: {}\nrules_dir: d\n")
    expected = f"{config}:2: rules_dir: {tmp_path}/d: cannot be read: No such file or directory"
    assert error_of(config) == expected


def test_same_name_twice(tmp_path: Path) -> None:
    """Two rules of the same name, in any files, are an error that names both locations."""
    config = write(tmp_path / "c.yaml", "rules_dir: d\nrules:\n" + RULE.format("a"))
    other = write(tmp_path / "d" / "b.yml", "\n" + RULE.format("b") + RULE.format("a"))
    assert error_of(config) == (
        f"{other}:5: [1].name: the rule at {config}:3 is called 'a' as well; names are unique"
    )
