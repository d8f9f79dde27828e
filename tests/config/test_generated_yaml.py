"""Generated YAML: whatever is parsed ends in a configuration or in one clear line."""

from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from criproxy.config.load import load, parse
from criproxy.config.rule_compilation import compiled
from criproxy.config.schema import Config
from criproxy.config.show import show
from criproxy.configtypes.section import Section
from criproxy.errors import ConfigError

WORDS = """\
null ~ true off 0 -1 7 1.5 .inf .nan 1e400 0660 0x10 190:20:30 1_000 2024-01-01 = "" x '*' a* 100%
5s 1h 999999999999999h 16MiB 99999999999999999999 /a unix:///a tcp://h:1 ':0' '0660' root:root
127.0.0.1:1 PullImage '@read' '@reed' method=='x' 'request.image.image' true||false UNAVAILABLE
UNIMPLEMENTED Metadata enforce pass before p50 docker.io/* '[' '(?<=x)y' read-only *missing <<
"\\0" "\\ud800" "\\U00110000" "a\\nb\\e[2K" 2001-12-14t21:59:43.10-99:99
0001-01-01T00:00:00+23:00 !x"""
TAGGED = [
    "int x",
    "int ''",
    "float ''",
    "bool x",
    "timestamp x",
    "binary '#'",
    "str 5",
    "set {a,b}",
]
SCALARS = (
    st.sampled_from([*WORDS.split(), "'` - at `$.log`'"])
    | st.sampled_from([*TAGGED, "omap [a: 1]", "pairs [a: 1]"]).map("!!{}".format)
    | st.text(max_size=6).map(msgspec.json.encode).map(bytes.decode)
)
NO_FIELD = msgspec.structs.fields(Config)[0]
KEYS = st.sampled_from(
    [
        "<<",
        "? [a, b]",
        "? {a: b}",
        "1",
        "null",
        "off",
        '"a\\nb"',
        "x",
        "2024-01-01",
        "'`'",
        "'a.b[0]'",
    ]
)


@st.composite
def nodes(draw: st.DrawFn, kind: Any, depth: int = 5) -> str:
    """Draw flow-style YAML for a type of the schema, or something else in its place."""
    choice = draw(st.integers(0, 11))
    if depth == 0 or choice == 0:
        return draw(SCALARS)
    if choice == 1:
        inner = draw(st.lists(nodes(kind, depth - 1), max_size=2))
        return draw(st.sampled_from(["[{}]", "&a [{}, *a]", "{{a: {}}}"])).format(", ".join(inner))
    if choice == 2:
        key = draw(KEYS)
        return f"{{{key} : {draw(nodes(kind, depth - 1))}}}"
    if get_origin(kind) is list:
        items = draw(st.lists(nodes(get_args(kind)[0], depth - 1), max_size=2))
        return f"[{', '.join(items)}]"
    if get_origin(kind) is dict:
        value = get_args(kind)[1]
        entries = draw(st.lists(st.tuples(KEYS | SCALARS, nodes(value, depth - 1)), max_size=2))
        return "{" + ", ".join(f"{key} : {each}" for key, each in entries) + "}"
    if isinstance(kind, type) and issubclass(kind, Section):
        fields = draw(
            st.lists(st.sampled_from(msgspec.structs.fields(kind) or [NO_FIELD]), max_size=4)
        )
        entries = [(each.encode_name, draw(nodes(each.type, depth - 1))) for each in fields]
        return "{" + ", ".join(f"{key} : {each}" for key, each in entries) + "}"
    if args := [each for each in get_args(kind) if each is not type(None)]:
        one = draw(st.sampled_from(args))
        return (
            msgspec.json.encode(one).decode() if isinstance(one, str) else draw(nodes(one, depth))
        )
    return draw(SCALARS)


def check_line(error: ConfigError, start: str) -> None:
    text = str(error)
    assert text.isprintable(), text
    assert text.startswith(start)
    text.encode()


@given(nodes(Config))
def test_ends_in_a_configuration_or_one_line(text: str) -> None:
    """Generated YAML is a configuration that can be shown, or a ConfigError of one line."""
    try:
        config = parse(text, "c.yaml")
    except ConfigError as error:
        check_line(error, "c.yaml:")
    else:
        assert parse(show(config), "shown.yaml") == config


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for configuration files."""
    return tmp_path_factory.mktemp("config")


@given(
    st.sampled_from(["", "\n- ", "rules: "]), nodes(Config.__annotations__["rules"]), nodes(Config)
)
def test_files_of_rules(directory: Path, start: str, rules: str, rest: str) -> None:
    """The same holds for files and for those of rules_dir, including the compilation of rules."""
    path = directory / "c.yaml"
    (directory / "rules.d").mkdir(exist_ok=True)
    (directory / "rules.d" / "a.yaml").write_text(start + rules)
    for text in ("rules_dir: rules.d", rest):
        path.write_text(text)
        try:
            compiled(load(path))
        except ConfigError as error:
            check_line(error, str(directory))
