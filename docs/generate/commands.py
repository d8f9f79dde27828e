"""The reference of the command line and of exit statuses, from the commands' own help."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import click

from criproxy.cli import cli
from criproxy.errors import CriproxyError
from docs.generate.markdown import code, table

_INTRODUCTION: Final = """\
# Command line

`-h` or `--help` prints a command's help. An error that the user can correct is one line on standard
error that names the cause and the correction.

"""

_STATUS: Final = "Exit status:"


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph of a help text; ``title`` is the line above a preformatted one, or empty."""

    text: str
    title: str = ""
    preformatted: bool = False


@dataclass(frozen=True, slots=True)
class Described:
    """A command, the words that call it, and the paragraphs of its help."""

    name: str
    command: click.Command
    blocks: list[Block]

    @property
    def usage(self) -> str:
        """The words after the command's name, as its help has them."""
        context = click.Context(self.command, info_name=self.name)
        return " ".join(self.command.collect_usage_pieces(context))

    @property
    def status(self) -> str:
        """The meanings of the command's exit statuses; empty where its help has none."""
        return next((each.text for each in self.blocks if each.title == _STATUS), "")

    def options(self) -> Iterator[tuple[str, str]]:
        """Yield each option as it is written, and its help."""
        context = click.Context(self.command, info_name=self.name)
        for parameter in self.command.get_params(context):
            record = parameter.get_help_record(context)
            if isinstance(parameter, click.Option) and record and "--help" not in parameter.opts:
                yield record[0], re.sub(r"\s{2,}(\[)", r" \1", record[1])


def described() -> list[Described]:
    """Return every command, each group before its commands, ``criproxy`` itself first."""
    return list(_described("criproxy", cli))


def reference() -> str:
    """Return the page of the command line."""
    return _INTRODUCTION + "\n".join(map(_section, described()))


def statuses() -> str:
    """Return the page of exit statuses."""
    failures = sorted({each.exit_code for each in _errors()})
    rows = [(code("0"), "Success."), *((code(str(each)), _kinds(each)) for each in failures)]
    commands = [(code(each.name), _sentence(each.status)) for each in described() if each.status]
    return (
        "# Exit status\n\n"
        + table(("Status", "Meaning"), rows)
        + "\n## By command\n\n"
        + table(("Command", "Statuses"), commands)
    )


def _kinds(status: int) -> str:
    """Return what the errors mean that end with a status."""
    kinds = [each for each in _errors() if each.exit_code == status and each is not CriproxyError]
    return " ".join((inspect.getdoc(each) or "").partition("\n")[0] for each in kinds)


def _errors() -> list[type[CriproxyError]]:
    """Return the errors that are raised on purpose, each before those derived from it."""
    pending: list[type[CriproxyError]] = [CriproxyError]
    found = []
    while pending:
        found.append(pending.pop(0))
        pending += found[-1].__subclasses__()
    return [each for each in found if each.__module__ == CriproxyError.__module__]


def _sentence(text: str) -> str:
    return re.sub(r"(^|[,;] )(\d)(?= )", lambda found: f"{found[1]}{code(found[2])}", text)


def _described(name: str, command: click.Command) -> Iterator[Described]:
    text = f"{inspect.cleandoc(command.help or '')}\n\n{command.epilog or ''}"
    yield Described(name, command, list(_blocks(text)))
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        for each in command.list_commands(context):
            inner = command.get_command(context, each)
            assert inner is not None
            yield from _described(f"{name} {each}", inner)


def _blocks(text: str) -> Iterator[Block]:
    r"""Split a help text into paragraphs; a line ``\b`` begins one that click does not wrap."""
    for paragraph in re.split(r"\n\s*\n", text):
        if not paragraph.strip():
            continue
        head, marker, rest = paragraph.strip("\n").partition("\b\n")
        lines = (rest if marker else head).splitlines()
        if not marker:
            yield Block(" ".join(line.strip() for line in lines))
        elif lines[0].startswith(_STATUS):
            words = " ".join(line.strip() for line in lines)
            yield Block(words.removeprefix(_STATUS).strip(), _STATUS)
        elif lines[0].endswith(":") and not lines[0].startswith(" "):
            yield Block(inspect.cleandoc("\n" + "\n".join(lines[1:])), lines[0], preformatted=True)
        elif all(line.startswith(" ") for line in lines):
            yield Block(inspect.cleandoc("\n" + "\n".join(lines)), preformatted=True)
        else:
            yield Block(" ".join(line.strip() for line in lines))


def _section(described: Described) -> str:
    depth = described.name.count(" ") + 1
    text = f"{'#' * (min(depth, 3) + 1)} `{described.name}`\n\n"
    text += f"```text\n{described.name} {described.usage}\n```\n"
    for block in described.blocks:
        if block.title == _STATUS:
            text += f"\n**Exit status**: {_sentence(block.text)}\n"
        elif block.preformatted:
            text += f"\n{block.title}\n" if block.title else ""
            text += f"\n```text\n{block.text}\n```\n"
        else:
            text += f"\n{_markdown(block.text)}\n"
    options = [(code(option), _markdown(meaning)) for option, meaning in described.options()]
    return text + (f"\n{table(('Option', 'Meaning'), options)}" if options else "")


def _markdown(text: str) -> str:
    return text.replace("*", "\\*").replace("<", "&lt;").replace("_", "\\_")
