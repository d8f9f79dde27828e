"""Loads the configuration file and the rules in the files of ``rules_dir``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from criproxy.config.file_states import FileStates
from criproxy.config.schema import Config
from criproxy.config.yaml_document import Document, Keys, parse_one, read
from criproxy.configtypes.section import Section
from criproxy.errors import ConfigError
from criproxy.rules.profiles.profile import ProfileError, check_profiles
from criproxy.rules.spec import RuleSpec

_SUFFIXES: Final = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class LocatedRule:
    """A rule and its location, for errors that only its compilation finds."""

    spec: RuleSpec
    document: Document
    keys: tuple[str | int, ...]

    def error(self, keys: Keys, what: str) -> ConfigError:
        """Return an error with the line of one of the rule's keys."""
        return self.document.error((*self.keys, *keys), what)


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration and what it was loaded from."""

    config: Config
    """The configuration, changed by command line options."""
    rules: tuple[LocatedRule, ...] = ()
    """The rules of the file, then those of ``rules_dir``."""
    path: Path | None = None
    """The configuration file, if one was given."""
    written: Config = field(default_factory=Config)
    """The configuration as written in the file."""
    files: FileStates = field(default_factory=FileStates)
    """All files that were read, including hook scripts."""
    options: Mapping[str, str | None] = field(default_factory=dict)
    """The command line's options, which override the file."""

    @property
    def directory(self) -> Path:
        """The directory to which paths in the file are relative."""
        return self.path.parent if self.path is not None else Path()


class RulesFile(Section, frozen=True):
    """A rule file whose content is a mapping."""

    rules: list[RuleSpec] = msgspec.field(default_factory=list)


def load(path: Path, files: FileStates | None = None) -> LoadedConfig:
    """Read a configuration file and the files that it names.

    Each file and directory that is read is added to ``files``, also if loading fails: these are
    the files to watch for a correction. Raises ConfigError: one line with the location and how to
    correct it.
    """
    files = FileStates() if files is None else files
    files.add(path)
    document = read(path, "; see -c")
    config = document.convert(Config) if document.value is not None else Config()
    _check_profiles(document, config)
    rules = _located(document, config.rules, ("rules",))
    if config.rules_dir is not None:
        directory = path.parent / config.rules_dir
        files.add(directory)
        for each in _files_in(directory, document):
            files.add(each)
            rules += _rules_of(read(each))
    _check_unique_names(rules)
    loaded = LoadedConfig(config, tuple(rules), path, config, files)
    for script in _scripts(loaded):
        files.add(script)
    return loaded


def load_rules(path: Path) -> LoadedConfig:
    """Read a configuration file, or a file that is a list of rules. Raises ConfigError."""
    document = read(path)
    if not isinstance(document.value, list):
        return load(path)
    rules = _rules_of(document)
    _check_unique_names(rules)
    config = Config(rules=[each.spec for each in rules])
    return LoadedConfig(config, tuple(rules), path, config)


def parse(text: str, name: str) -> Config:
    """Parse a configuration; ``name`` is its file name in errors. Raises ConfigError."""
    document = parse_one(text, name)
    return document.convert(Config) if document.value is not None else Config()


def _check_profiles(document: Document, config: Config) -> None:
    try:
        check_profiles(config.profiles, [each.profile for each in config.listeners])
    except ProfileError as error:
        raise document.error(error.keys, error.message) from error


def _scripts(loaded: LoadedConfig) -> list[Path]:
    hooks = [each.spec.hook for each in loaded.rules if each.spec.hook is not None]
    return [loaded.directory / hook.script for hook in hooks if hook.script is not None]


def _files_in(directory: Path, document: Document) -> list[Path]:
    """Return a directory's rule files by name, without hidden ones, which editors and ConfigMaps
    create."""
    try:
        found = sorted(directory.iterdir())
    except OSError as error:
        what = f"{directory}: cannot be read: {error.strerror}"
        raise document.error(("rules_dir",), what) from error
    return [
        each
        for each in found
        if each.suffix in _SUFFIXES and not each.name.startswith(".") and each.is_file()
    ]


def _rules_of(document: Document) -> list[LocatedRule]:
    """Return the rules of a rule file: a list, or a mapping with the key ``rules``."""
    if document.value is None:
        return []
    if isinstance(document.value, list):
        return _located(document, document.convert(list[RuleSpec]), ())
    return _located(document, document.convert(RulesFile).rules, ("rules",))


def _located(document: Document, specs: list[RuleSpec], keys: tuple[str, ...]) -> list[LocatedRule]:
    return [LocatedRule(spec, document, (*keys, index)) for index, spec in enumerate(specs)]


def _check_unique_names(rules: list[LocatedRule]) -> None:
    first: dict[str, LocatedRule] = {}
    for rule in rules:
        other = first.setdefault(rule.spec.name, rule)
        if other is not rule:
            location = other.document.location((*other.keys, "name"))
            what = f"the rule at {location} is called {rule.spec.name!r} as well; names are unique"
            raise rule.error(("name",), what)
