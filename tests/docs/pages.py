"""The pages that are written by hand, and the blocks of code in them."""

import re
from dataclasses import dataclass
from pathlib import Path

from docs.generate.__main__ import PAGES

ROOT = Path(__file__).parents[2]

_BLOCK = re.compile(r'^```(\w+)(?: title="([^"\n]*)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code: the page that it is on, its language, its title, its text."""

    page: str
    language: str
    title: str
    text: str


def paths() -> list[Path]:
    """The README, those beside it, and every page of docs/ that is not generated."""
    generated = {ROOT / "docs" / name for name in PAGES}
    pages = {*(ROOT / "docs").rglob("*.md")} - generated
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "deploy/README.md", *sorted(pages)]


def blocks(*languages: str) -> list[Block]:
    """Every block in one of these languages."""
    return [
        Block(str(path.relative_to(ROOT)), language, title, text)
        for path in paths()
        for language, title, text in _BLOCK.findall(path.read_text(encoding="utf-8"))
        if language in languages
    ]


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def name(block: Block) -> str:
    """What pytest calls a block."""
    return f"{block.page}-{block.title or block.text[:24].split(chr(10))[0]}"
