"""YAML documents with the line number of each value.

An error in a file is one line with the file, the line, the key and how to correct it.
"""

import contextlib
import difflib
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar, get_args

import msgspec
import yaml

from criproxy.common.printable import printable
from criproxy.config.value_types import decode
from criproxy.configtypes.section import Section
from criproxy.errors import ConfigError

T = TypeVar("T")
Keys = Sequence[str | int]
"""The path of a value: keys and indices from the root."""

_AT: Final = " - at `$"
"""What msgspec puts between its message and the path, which ends with a backtick."""

_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_KEY_TAGS: Final = frozenset({"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"})
_PLAIN: Final = re.compile(r"[\w-]+")


class Document:
    """One document of a file, as values and as nodes. ``value`` is None for an empty document."""

    def __init__(self, name: str, root: yaml.Node | None, value: Any) -> None:
        """``name`` is the file name in errors."""
        self.name = name
        self._root = root
        self.value = value

    def convert(self, kind: type[T]) -> T:
        """Convert the document to a value of type ``kind``. Raises ConfigError."""
        try:
            return msgspec.convert(self.value, kind, dec_hook=decode)
        except msgspec.ValidationError as error:
            self._raise(str(error), kind)

    def error(self, keys: Keys, what: str) -> ConfigError:
        """Return an error with the line and the path of a value."""
        location, path = self.location(keys), _path(keys)
        return ConfigError(
            printable(f"{location}: {path}: {what}" if path else f"{location}: {what}")
        )

    def location(self, keys: Keys) -> str:
        """Return ``file:line`` of a value; of a mapping's value, the line of its key."""
        line = _node_at(self._root, keys).start_mark.line + 1 if self._root is not None else 1
        return f"{self.name}:{line}"

    def _raise(self, message: str, kind: Any) -> NoReturn:
        """Raise ConfigError for a message of msgspec, which ends with a path."""
        what, at, path = message.removesuffix("`").rpartition(_AT)
        if not at:  # the error is about the whole document
            what, path = message, ""
        keys = [step or (int(index) if index != "..." else index) for step, index in _steps(path)]
        unknown = _UNKNOWN.search(what)
        if unknown:
            what = "no such key" + _suggestion(unknown[1], _type_at(kind, keys))
            keys.append(unknown[1])
        elif what.startswith("Invalid enum value"):
            what = f"{what}; there are {', '.join(map(repr, _literals(_type_at(kind, keys))))}"
        what = what.replace("`object`", "a mapping").replace("`array`", "a list")
        raise self.error(keys, what)


def read(path: Path, hint: str = "") -> Document:
    """Read a file of one document. Raises ConfigError.

    ``hint`` is appended to the error of a file that cannot be read.
    """
    return parse_one(read_text(path, hint), str(path))


def read_text(path: Path, hint: str = "") -> str:
    """Read a file's text. Raises ConfigError."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}{hint}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text: {error}") from error


def parse_one(text: str, name: str) -> Document:
    """Parse one document; ``name`` is the file name in errors. Raises ConfigError."""
    with _yaml_errors(name):
        loader = _Loader(text)
        return _document(loader, loader.get_single_node(), name)


def parse_all(text: str, name: str) -> list[Document]:
    """Parse any number of documents. Raises ConfigError."""
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
        raise ConfigError(printable(f"{name}:{line}: not YAML: {error.problem}")) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the latter from "\U00110000"
        raise ConfigError(printable(f"{name}: not YAML: {' '.join(str(error).split())}")) from error
    except RecursionError as error:
        raise ConfigError(f"{name}: is nested too deeply") from error


def _document(loader: yaml.SafeLoader, root: yaml.Node | None, name: str) -> Document:
    if root is None:
        return Document(name, None, None)
    _Checker(name).check(root)
    return Document(name, root, loader.construct_document(root))


class _Checker:
    """Refuses what PyYAML accepts and the configuration has no use for."""

    def __init__(self, name: str) -> None:
        """``name`` is the file name in errors."""
        self._name = name
        self._open: set[int] = set()
        self._checked: set[int] = set()

    def check(self, node: yaml.Node) -> None:
        """Check a node and those within it, each once: aliases may multiply them.

        Raises ConfigError for a key that is duplicate or not a string, and for a node that contains
        itself.
        """
        if id(node) in self._open:
            raise self._error(node, "contains itself")
        if id(node) in self._checked:
            return
        self._checked.add(id(node))
        self._open.add(id(node))
        if isinstance(node, yaml.MappingNode):
            self._check_keys([key for key, _ in node.value])
        for child in node.value if isinstance(node, yaml.CollectionNode) else ():
            self.check(child[1] if isinstance(child, tuple) else child)
        self._open.discard(id(node))

    def _check_keys(self, keys: Sequence[yaml.Node]) -> None:
        seen: set[str] = set()
        for key in keys:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(key, "a key has to be text, not a list or a mapping")
            if key.tag not in _KEY_TAGS:
                kind = key.tag.rpartition(":")[2]
                raise self._error(
                    key, f"{key.value}: a key has to be text, and this is {kind}; quote it"
                )
            if key.value in seen:
                raise self._error(key, f"{key.value}: stands there twice; keep one")
            seen.add(key.value)

    def _error(self, node: yaml.Node, what: str) -> ConfigError:
        return ConfigError(printable(f"{self._name}:{node.start_mark.line + 1}: {what}"))


class _Loader(yaml.SafeLoader):
    """A loader that refuses values which cannot be used, with their line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except ValueError as error:
            raise self._error(node, str(error)) from error
        except (LookupError, AttributeError, ArithmeticError, TypeError) as error:
            kind = node.tag.rpartition(":")[2]
            raise self._error(node, f"this is no {kind}") from error
        if isinstance(value, float) and not math.isfinite(value):
            raise self._error(node, f"{node.value} is not a finite number")
        if isinstance(value, str) and not _is_text(value):
            raise self._error(node, "the text has a NUL character or half a surrogate pair")
        return value

    def _error(self, node: yaml.Node, what: str) -> yaml.MarkedYAMLError:
        return yaml.MarkedYAMLError(None, None, what, node.start_mark)


def _is_text(value: str) -> bool:
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def _steps(path: str) -> list[tuple[str, str]]:
    return _STEP.findall(path)


def _path(keys: Keys) -> str:
    """Format keys as a path: ``rules[2].rewrite.request["image.image"]``."""
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
    """Return the literals within a type."""
    if isinstance(kind, str):
        return [kind]
    return [word for part in get_args(kind) for word in _literals(part)]


def _type_at(kind: Any, keys: Keys) -> Any:
    """Return the schema's type of a value; for an item of a list or dict, the type of the whole."""
    for key in keys:
        section = None if isinstance(key, int) else _section(kind)
        if section is not None:
            fields = {each.encode_name: each.type for each in msgspec.structs.fields(section)}
            kind = fields.get(str(key), kind)
    return kind


def _section(kind: Any) -> type[Section] | None:
    """Return the section within a type, such as ``list[Section] | None``."""
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind
    return next(filter(None, map(_section, get_args(kind))), None)


def _node_at(node: yaml.Node, keys: Keys) -> yaml.Node:
    """Return the node at a path, or the nearest above it; of a mapping's value, its key's node."""
    found = node
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            for name, child in reversed(node.value):  # entries that are merged in come first
                if name.value == key:
                    found, node = name, child
                    break
            else:
                break
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int):
            if key >= len(node.value):
                break
            found = node = node.value[key]
        else:
            break
    return found
