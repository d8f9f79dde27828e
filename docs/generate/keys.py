"""The reference of the configuration's keys and of the rules' keys, from their schema."""

import json
import re
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec

from criproxy.config.schema import Config
from criproxy.config.value_types import Address, Owner
from criproxy.configtypes.patterns import Pattern
from criproxy.configtypes.section import Section
from criproxy.configtypes.values import Duration, Mode, Size
from criproxy.relay.endpoints import Endpoint
from criproxy.rules.spec import CelValue, Code, RuleSpec
from docs.generate.descriptions import attributes, summary
from docs.generate.markdown import anchor, code, table

_HEADER: Final = ("Key", "Type", "Default", "Meaning")

_PLAIN: Final = re.compile(r"\w[\w./-]*")

_KINDS: Final = {
    Endpoint: "endpoint",
    Duration: "duration",
    Size: "size",
    Mode: "file mode",
    Pattern: "regular expression",
    Owner: "owner",
    Address: "address",
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
}

_CONFIGURATION: Final = """\
# Configuration

The configuration is a YAML file, given with `-c FILE`. Every key may be left out unless its default
is *required*; an unknown key is an error. `config.example.yaml` in the repository shows every
key with its default.

## Types of values

| Type | How it is written |
| --- | --- |
| endpoint | `unix:///path`, `unix://path` or `/path`, at most 107 bytes of path |
| duration | `500ms`, `30s`, `1m30s` |
| size | bytes: `65536`, `64KiB`, `16MiB` |
| file mode | octal and quoted: `"0660"` |
| owner | `user`, `user:group` or `:group`, names or numbers |
| address | `127.0.0.1:9440`, `"[::1]:9440"` |
| glob | `*`, `?` and `[...]`, as in a shell |
| CEL | an expression as a string; a boolean or a number stands for itself |

A glob of methods is matched against `Method`, `Service/Method` and the full path: `List*`,
`ImageService/*`. Where methods are named, the groups `@read`, `@mutating` and `@exec` are allowed
as well; [Methods](methods.md) lists their members.

"""

_RULES: Final = """\
# Rules

A rule selects calls with `match` and has exactly one action. [Rule evaluation](rule-evaluation.md)
describes in which order rules act, what field paths look like, and what happens when a rule fails;
[CEL](cel.md) lists the variables of expressions. The types are those of the
[configuration](configuration.md#types-of-values).

"""


def configuration() -> str:
    """Return the page of the configuration's keys."""
    return _CONFIGURATION + "\n".join(_sections(Config, "", 1))


def rules() -> str:
    """Return the page of the rules' keys."""
    return _RULES + "\n".join(_sections(RuleSpec, "", 1))


def names(kind: type[Section], prefix: str = "") -> Iterator[str]:
    """Return the names of a section's keys, nested ones with the keys that lead to them.

    The keys of rules are not among those of the configuration.
    """
    for field in msgspec.structs.fields(kind):
        section, suffix = section_of(field.type)
        yield f"{prefix}{field.encode_name}"
        if section is not None and section is not RuleSpec:
            yield from names(section, f"{prefix}{field.encode_name}{suffix}.")


def _sections(kind: type[Section], prefix: str, depth: int) -> Iterator[str]:
    """Yield the table of a section's keys, then the sections within it under a heading each."""
    fields = msgspec.structs.fields(kind)
    described = attributes(kind)
    if fields:
        if depth == 1:
            yield "## Top level\n"
        yield table(_HEADER, [_row(field, prefix, described) for field in fields])
    for field in fields:
        section, suffix = section_of(field.type)
        if section is None or section is RuleSpec or not msgspec.structs.fields(section):
            continue
        name = f"{prefix}{field.encode_name}{suffix}"
        heading = "#" * min(depth + 1, 4)
        yield f"{heading} `{name}`\n\n{summary(section)}\n"
        yield from _sections(section, f"{name}.", depth + 1)


def _row(
    field: msgspec.structs.FieldInfo, prefix: str, described: dict[str, str]
) -> tuple[str, ...]:
    name = f"{prefix}{field.encode_name}"
    section, suffix = section_of(field.type)
    meaning = described.get(field.name) or (summary(section) if section is not None else "")
    if not meaning:
        raise SystemExit(f"{name} has no description; write a docstring behind its attribute")
    if section is RuleSpec:
        meaning += " See [their keys](rules.md)."
    elif section is not None and msgspec.structs.fields(section):
        meaning += f" See [its keys](#{anchor(name + suffix)})."
    return code(name), _type(field.type), _default(field), meaning.replace("null:", "`null`:")


def section_of(kind: Any) -> tuple[type[Section] | None, str]:
    """Return the section that a key's value is or contains, and what its key is followed by."""
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind, ""
    suffix = {list: "[]", dict: ".<name>"}.get(get_origin(kind), "")
    for part in get_args(kind):
        section, inner = section_of(part)
        if section is not None:
            return section, suffix + inner
    return None, ""


def _type(kind: Any) -> str:
    """Return the words for a type."""
    if kind in _KINDS:
        return _KINDS[kind]
    origin, parts = get_origin(kind), get_args(kind)
    if kind == Code:
        return "gRPC code"
    if origin is Literal:
        return " or ".join(code(part) for part in parts)
    if origin is Annotated:
        return _type(parts[0]) + _bounds(parts[1])
    if origin is list:
        return f"list of {_plural(_type(parts[0]))}"
    if origin is dict:
        return f"mapping of names to {_plural(_type(parts[1]))}"
    if origin in (Union, UnionType):
        return _union(set(parts))
    return "mapping"


def _union(parts: set[Any]) -> str:
    nullable = " or null" if NoneType in parts else ""
    parts.discard(NoneType)
    if parts in (set(get_args(CelValue)), {str, bool}):
        return f"CEL{nullable}"
    (kind,) = parts
    return _type(kind) + nullable


def _bounds(meta: msgspec.Meta) -> str:
    if meta.le is not None:
        return f" from {meta.ge} to {meta.le}"
    return f", at least {meta.ge}"


def _plural(words: str) -> str:
    return words if words.startswith(("`", "CEL", "mapping of")) else f"{words}s"


def default_of(field: msgspec.structs.FieldInfo) -> Any:
    """Return a key's default, NODEFAULT where it has none."""
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


def contains_sections(value: Any) -> bool:
    """Tell whether a value is a list of mappings with keys of their own."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], Section)


def _default(field: msgspec.structs.FieldInfo) -> str:
    value = default_of(field)
    if value is msgspec.NODEFAULT:
        return "*required*"
    if isinstance(value, Section):
        return ""
    return "one, with its defaults" if contains_sections(value) else code(text_of(value))


def text_of(value: Any) -> str:
    """Return a value as the configuration has it, on one line."""
    match value:
        case None:
            return "null"
        case Duration():
            return f"{float(value):g}s" if value else "0"
        case Size():
            return next(
                f"{value >> bits}{unit}"
                for bits, unit in ((20, "MiB"), (10, "KiB"), (0, ""))
                if value % (1 << bits) == 0
            )
        case Mode():
            return f'"{int(value):04o}"'
        case Address():
            return f"{value[0]}:{value[1]}"
        case str() | Endpoint():
            return str(value) or '""'
        case list():
            return f"[{', '.join(map(_item, value))}]"
        case float():
            return f"{value:g}"
        case _:
            return json.dumps(value)


def _item(value: Any) -> str:
    """Return an item of a list, quoted where YAML would not read it as text."""
    text = text_of(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
