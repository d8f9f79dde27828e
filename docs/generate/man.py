"""The manual page ``criproxy(1)``, from the command line's own help, in man(7) macros."""

import re
from collections.abc import Iterator
from typing import Final

from criproxy import __version__
from docs.generate.commands import Block, Described, described

_TOP: Final = {"Files:": "FILES", "Environment:": "ENVIRONMENT", "Signals:": "SIGNALS"}
"""Paragraphs that have a section of the manual of their own, by their titles in a help text."""

_SEE_ALSO: Final = (
    ("crictl", 1),
    ("systemctl", 1),
    ("containerd", 8),
    ("crio", 8),
    ("logrotate", 8),
)


def manual() -> str:
    """Return the manual page."""
    root, *commands = described()
    sections = [
        f'.\\" Generated from the code by `make docs-reference`. Do not edit.\n'
        f'.TH CRIPROXY 1 "" "criproxy {__version__}" "User Commands"\n',
        f".SH NAME\ncriproxy \\- {_text(_first_sentence(root))}\n",
        f".SH SYNOPSIS\n.B criproxy\n[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGS\\fR]...\n"
        f"{''.join(map(_synopsis, commands))}",
        f".SH DESCRIPTION\n{_body(root)}",
        f".SH OPTIONS\n{_options(root)}{_option('-h, --help', 'Show the help of a command.')}",
        f".SH COMMANDS\n{''.join(map(_command, commands))}",
    ]
    for title, heading in _TOP.items():
        blocks = [block for each in (root, *commands) for block in each.blocks]
        rows = "".join(_listed(block) for block in blocks if block.title == title)
        sections.append(f".SH {heading}\n{rows}")
    sections.append(f".SH EXIT STATUS\n{_statuses(root)}")
    also = ", ".join(f"\\fB{name}\\fR({number})" for name, number in _SEE_ALSO)
    sections.append(f".SH SEE ALSO\n{also}\n")
    return "".join(sections)


def _first_sentence(root: Described) -> str:
    return root.blocks[0].text.removesuffix(".")


def _synopsis(each: Described) -> str:
    return f".br\n.B {each.name}\n{_text(each.usage)}\n"


def _command(each: Described) -> str:
    status = f".PP\nExit status: {_text(each.status)}\n" if each.status else ""
    return f".SS {each.name} {_text(each.usage)}\n{_body(each)}{_options(each)}{status}"


def _body(each: Described) -> str:
    """Return the paragraphs of a help text that have no section of their own."""
    return "".join(
        _paragraph(block)
        for block in each.blocks
        if block.title not in _TOP and block.title != "Exit status:"
    )


def _paragraph(block: Block) -> str:
    if not block.preformatted:
        return f".PP\n{_text(block.text)}\n"
    title = f".PP\n{_text(block.title)}\n" if block.title else ""
    return f"{title}.PP\n.RS 4\n.nf\n{_text(block.text)}\n.fi\n.RE\n"


def _options(each: Described) -> str:
    return "".join(_option(*option) for option in each.options())


def _option(written: str, meaning: str) -> str:
    return f".TP\n\\fB{_text(written)}\\fR\n{_text(meaning)}\n"


def _listed(block: Block) -> str:
    """Return the rows of a preformatted list: a name, two or more blanks, a meaning."""
    return "".join(_option(*re.split(r"\s{2,}", line, maxsplit=1)) for line in _rows(block))


def _rows(block: Block) -> Iterator[str]:
    yield from block.text.splitlines()


def _statuses(root: Described) -> str:
    parts = re.split(r",? ?(?<!\w)(\d) ", root.status)[1:]
    return "".join(
        _option(number, meaning) for number, meaning in zip(parts[::2], parts[1::2], strict=True)
    )


def _text(text: str) -> str:
    """Escape text for roff; a line must not begin with a control character."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return re.sub(r"^\.", r"\\&.", escaped, flags=re.MULTILINE)
