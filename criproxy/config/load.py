"""Reading the file. Whatever is wrong is one line with file, line, key and mend."""

import difflib
import re
from pathlib import Path
from typing import Any, Final, NoReturn, get_args

import msgspec
import yaml

from criproxy.config.schema import Config
from criproxy.config.values import decode
from criproxy.errors import ConfigError
from criproxy.section import Section

_AT: Final = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>.*)`)?$", re.DOTALL)
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`")


def load(path: Path) -> Config:
    """Read a configuration file. Raises ConfigError: one line with the place and the mend."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; see -c") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text: {error}") from error
    return parse(text, str(path))


def parse(text: str, name: str) -> Config:
    """Read a configuration from text; ``name`` is what errors call it. Raises ConfigError."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return Config()
        _refuse_duplicates(root, name)
        value = loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{name}:{line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError(f"{name}: is nested too deeply, or within itself") from error
    if value is None:
        return Config()
    try:
        return msgspec.convert(value, Config, dec_hook=decode)
    except msgspec.ValidationError as error:
        _explain(str(error), root, name)


class _Loader(yaml.SafeLoader):
    """Tells where a value stands that is not what its form says: the 45th of a month."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise yaml.MarkedYAMLError(None, None, str(error), node.start_mark) from error


def _refuse_duplicates(node: yaml.Node, name: str) -> None:
    """YAML's loader would silently take the last of two equal keys."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, child in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise ConfigError(f"{name}:{line}: {key.value}: stands there twice; keep one")
            seen.add(key.value)
            _refuse_duplicates(child, name)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _refuse_duplicates(child, name)


def _explain(message: str, root: yaml.Node, name: str) -> NoReturn:
    """Turn msgspec's message and its path into a ConfigError with a line."""
    found = _AT.match(message)
    what, path = (found["what"], found["path"] or "") if found else (message, "")
    steps = [step or index for step, index in _STEP.findall(path)]
    unknown = _UNKNOWN.search(what)
    if unknown:
        what = "no such key" + _suggestion(unknown[1], _type_at(steps))
        steps.append(unknown[1])
    elif what.startswith("Invalid enum value"):
        what = f"{what}; there are {', '.join(map(repr, _literals(_type_at(steps))))}"
    what = what.replace("`object`", "a mapping").replace("`array`", "a list")
    node = _node_at(root, steps)
    shown = "".join(f"[{s}]" if s.isdigit() else f".{s}" for s in steps if s != "...").lstrip(".")
    place = f"{name}:{node.start_mark.line + 1}"
    raise ConfigError(f"{place}: {shown}: {what}" if shown else f"{place}: {what}")


def _suggestion(key: str, kind: Any) -> str:
    section = next(filter(_is_section, (kind, *get_args(kind))), None)
    if section is None:
        return ""
    keys = section.__struct_fields__
    close = difflib.get_close_matches(key, keys, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(keys)}"


def _literals(kind: Any) -> list[str]:
    """Return the words that a type allows, however deep within it they stand."""
    if isinstance(kind, str):
        return [kind]
    return [word for part in get_args(kind) for word in _literals(part)]


def _type_at(steps: list[str]) -> Any:
    """Return the type that the schema has for a path; that of a list or mapping for its items."""
    kind: Any = Config
    for step in steps:
        if not step.isdigit() and step != "...":
            section = next(filter(_is_section, (kind, *get_args(kind))))
            kind = {each.name: each.type for each in msgspec.structs.fields(section)}[step]
    return kind


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _node_at(node: yaml.Node, steps: list[str]) -> yaml.Node:
    """Return the node that a path leads to: a key's own where there is one, for its line."""
    place = node
    for step in steps:
        if isinstance(node, yaml.MappingNode):
            for key, child in node.value:
                if key.value == step:
                    place, node = key, child
                    break
            else:
                break
        elif isinstance(node, yaml.SequenceNode) and step.isdigit():
            place = node = node.value[int(step)]
        else:
            break
    return place
