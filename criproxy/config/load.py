"""Reading the configuration: the file, and the rules that stand in files beside it."""

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
class PlacedRule:
    """A rule, and where it stands: for errors that only its compilation finds."""

    spec: RuleSpec
    document: Document
    keys: tuple[str | int, ...]

    def error(self, keys: Keys, what: str) -> ConfigError:
        """Return the error that names the line of one of the rule's keys."""
        return self.document.error((*self.keys, *keys), what)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What has been read."""

    config: Config
    """With what options changed of it."""
    rules: tuple[PlacedRule, ...] = ()
    """The file's rules, then those of ``rules_dir``."""
    path: Path | None = None
    """The file; None where none was given."""
    written: Config = field(default_factory=Config)
    """The configuration as the file has it."""
    files: FileStates = field(default_factory=FileStates)
    """What it was read from, hook scripts too."""

    @property
    def directory(self) -> Path:
        """What relative paths in the file start from."""
        return self.path.parent if self.path is not None else Path()


class RulesFile(Section, frozen=True):
    """A file of rules that is a mapping."""

    rules: list[RuleSpec] = msgspec.field(default_factory=list)


def load(path: Path, files: FileStates | None = None) -> Loaded:
    """Read a configuration file and the files that it names.

    ``files`` is told of each file and directory that what is loaded depends on, those as well that
    an error is about: what to watch for the mend. Raises ConfigError: one line with the place and
    the mend.
    """
    files = FileStates() if files is None else files
    files.note(path)
    document = read(path, "; see -c")
    config = document.convert(Config) if document.value is not None else Config()
    _check_profiles(document, config)
    placed = _placed(document, config.rules, ("rules",))
    if config.rules_dir is not None:
        directory = path.parent / config.rules_dir
        files.note(directory)
        for each in _files_in(directory, document):
            files.note(each)
            placed += _rules_of(read(each))
    _refuse_same_names(placed)
    loaded = Loaded(config, tuple(placed), path, config, files)
    for script in _scripts(loaded):
        files.note(script)
    return loaded


def load_rules(path: Path) -> Loaded:
    """Read a configuration file, or a file that is a list of rules. Raises ConfigError."""
    document = read(path)
    if not isinstance(document.value, list):
        return load(path)
    placed = _rules_of(document)
    _refuse_same_names(placed)
    config = Config(rules=[each.spec for each in placed])
    return Loaded(config, tuple(placed), path, config)


def parse(text: str, name: str) -> Config:
    """Read a configuration from text; ``name`` is what errors call it. Raises ConfigError."""
    document = parse_one(text, name)
    return document.convert(Config) if document.value is not None else Config()


def _check_profiles(document: Document, config: Config) -> None:
    try:
        check_profiles(config.profiles, [each.profile for each in config.listeners])
    except ProfileError as error:
        raise document.error(error.keys, error.message) from error


def _scripts(loaded: Loaded) -> list[Path]:
    hooks = [each.spec.hook for each in loaded.rules if each.spec.hook is not None]
    return [loaded.directory / hook.script for hook in hooks if hook.script is not None]


def _files_in(directory: Path, document: Document) -> list[Path]:
    """Return a directory's rule files in order; hidden ones are an editor's, or a ConfigMap's."""
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


def _rules_of(document: Document) -> list[PlacedRule]:
    """Read a file of rules: a list of them, or a mapping with ``rules``."""
    if document.value is None:
        return []
    if isinstance(document.value, list):
        return _placed(document, document.convert(list[RuleSpec]), ())
    return _placed(document, document.convert(RulesFile).rules, ("rules",))


def _placed(document: Document, specs: list[RuleSpec], keys: tuple[str, ...]) -> list[PlacedRule]:
    return [PlacedRule(spec, document, (*keys, index)) for index, spec in enumerate(specs)]


def _refuse_same_names(rules: list[PlacedRule]) -> None:
    first: dict[str, PlacedRule] = {}
    for rule in rules:
        other = first.setdefault(rule.spec.name, rule)
        if other is not rule:
            place = other.document.place((*other.keys, "name"))
            what = f"the rule at {place} is called {rule.spec.name!r} as well; names are unique"
            raise rule.error(("name",), what)
