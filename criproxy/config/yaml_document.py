"""A YAML file that remembers on which line each of its values stands.

Whatever is wrong with it is one line with file, line, key and mend.
"""

import contextlib
import difflib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar, get_args

import msgspec
import yaml

from criproxy.config.value_types import decode
from criproxy.configtypes.section import Section
from criproxy.errors import ConfigError

T = TypeVar("T")
Keys = Sequence[str | int]
"""Where a value stands: the keys and indices that lead to it from the root."""

_AT: Final = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>.*)`)?$", re.DOTALL)
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`")
_PLAIN: Final = re.compile(r"[\w-]+")


class Document:
    """One document of a file, as values and as nodes. ``value`` is None where there is nothing."""

    def __init__(self, name: str, root: yaml.Node | None, value: Any) -> None:
        """``name`` is what errors call the file."""
        self.name = name
        self._root = root
        self.value = value

    def convert(self, kind: type[T]) -> T:
        """Make what the file says a value of ``kind``. Raises ConfigError."""
        try:
            return msgspec.convert(self.value, kind, dec_hook=decode)
        except msgspec.ValidationError as error:
            self._explain(str(error), kind)

    def error(self, keys: Keys, what: str) -> ConfigError:
        """Return the error that names a value's line and its keys."""
        place, shown = self.place(keys), _shown(keys)
        return ConfigError(f"{place}: {shown}: {what}" if shown else f"{place}: {what}")

    def place(self, keys: Keys) -> str:
        """Return the file and the line on which a value stands, its key's where it has one."""
        line = _node_at(self._root, keys).start_mark.line + 1 if self._root is not None else 1
        return f"{self.name}:{line}"

    def _explain(self, message: str, kind: Any) -> NoReturn:
        """Turn msgspec's message and its path into a ConfigError with a line."""
        found = _AT.match(message)
        what, path = (found["what"], found["path"] or "") if found else (message, "")
        keys = [step or (int(index) if index != "..." else index) for step, index in _steps(path)]
        unknown = _UNKNOWN.search(what)
        if unknown:
            what = "no such key" + _suggestion(unknown[1], _type_at(kind, keys))
            keys.append(unknown[1])
        elif what.startswith("Invalid enum value"):
            what = f"{what}; there are {', '.join(map(repr, _literals(_type_at(kind, keys))))}"
        what = what.replace("`object`", "a mapping").replace("`array`", "a list")
        raise self.error(keys, what)


def read(path: Path, mend: str = "") -> Document:
    """Read a file that is one document. Raises ConfigError.

    ``mend`` is put behind what keeps it from being read.
    """
    return parse_one(read_text(path, mend), str(path))


def read_text(path: Path, mend: str = "") -> str:
    """Read a file. Raises ConfigError when that cannot be done."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}{mend}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text: {error}") from error


def parse_one(text: str, name: str) -> Document:
    """Read text that is one document; ``name`` is what errors call it. Raises ConfigError."""
    with _yaml_errors(name):
        loader = _Loader(text)
        return _document(loader, loader.get_single_node(), name)


def parse_all(text: str, name: str) -> list[Document]:
    """Read text of any number of documents, each of which remembers its lines."""
    documents = []
    with _yaml_errors(name):
        loader = _Loader(text)
        while loader.check_node():
            documents.append(_document(loader, loader.get_node(), name))
    return documents


@contextlib.contextmanager
def _yaml_errors(name: str) -> Iterator[None]:
    try:
        yield
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{name}:{line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError(f"{name}: is nested too deeply, or within itself") from error


def _document(loader: yaml.SafeLoader, root: yaml.Node | None, name: str) -> Document:
    if root is None:
        return Document(name, None, None)
    _refuse_duplicates(root, name)
    return Document(name, root, loader.construct_document(root))


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


class _Loader(yaml.SafeLoader):
    """Tells where a value stands that is not what its form says: the 45th of a month."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise yaml.MarkedYAMLError(None, None, str(error), node.start_mark) from error


def _steps(path: str) -> list[tuple[str, str]]:
    return _STEP.findall(path)


def _shown(keys: Keys) -> str:
    """Write keys as one would look for them: ``rules[2].rewrite.request["image.image"]``."""
    text = ""
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
        elif _PLAIN.fullmatch(key):
            text += f".{key}"
        elif key != "...":
            text += f"[{json.dumps(key, ensure_ascii=False)}]"
    return text.lstrip(".")


def _suggestion(key: str, kind: Any) -> str:
    section = _section(kind)
    if section is None:
        return ""
    keys = section.__struct_encode_fields__
    close = difflib.get_close_matches(key, keys, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(keys)}"


def _literals(kind: Any) -> list[str]:
    """Return the words that a type allows, however deep within it they stand."""
    if isinstance(kind, str):
        return [kind]
    return [word for part in get_args(kind) for word in _literals(part)]


def _type_at(kind: Any, keys: Keys) -> Any:
    """Return the type that a schema has for a value; that of a list or mapping for its items."""
    for key in keys:
        section = None if isinstance(key, int) else _section(kind)
        if section is not None:
            fields = {each.encode_name: each.type for each in msgspec.structs.fields(section)}
            kind = fields.get(str(key), kind)
    return kind


def _section(kind: Any) -> type[Section] | None:
    """Return the section in a type: in ``list[Section] | None`` too."""
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind
    return next(filter(None, map(_section, get_args(kind))), None)


def _node_at(node: yaml.Node, keys: Keys) -> yaml.Node:
    """Return the node that a path leads to: a key's own where there is one, for its line."""
    place = node
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            for name, child in node.value:
                if name.value == key:
                    place, node = name, child
                    break
            else:
                break
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int):
            if key >= len(node.value):
                break
            place = node = node.value[key]
        else:
            break
    return place
