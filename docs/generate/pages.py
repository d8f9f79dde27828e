"""The pages that are written by hand, and the examples in them: blocks, rules, audit policies."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from criproxy.audit.spec import AuditRuleSpec
from criproxy.config.load import load_rules, parse
from criproxy.config.value_types import decode
from criproxy.config.yaml_document import parse_one
from criproxy.rules.spec import RuleSpec
from docs.generate import example
from docs.generate.markdown import MARKER

ROOT: Final = Path(__file__).parents[2]

_BLOCK: Final = re.compile(
    r'^```(\w+)(?: title="([^"\n]*)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """A block of code: the page that it is on, its language, its title, its text."""

    page: str
    language: str
    title: str
    text: str


def paths() -> list[Path]:
    """Return the README, those beside it, and every page of docs/ that is not generated."""
    pages = sorted((ROOT / "docs").rglob("*.md"))
    return [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "deploy/README.md")),
        *(path for path in pages if not path.read_text(encoding="utf-8").startswith(MARKER)),
    ]


def blocks(*languages: str) -> list[Block]:
    """Return every block in one of these languages."""
    return [
        Block(str(path.relative_to(ROOT)), language, title, text)
        for path in paths()
        for language, title, text in _BLOCK.findall(path.read_text(encoding="utf-8"))
        if language in languages
    ]


def rules() -> dict[str, list[RuleSpec]]:
    """Return all rules that are shown, by the file that shows them, relative to the repository."""
    found: dict[str, list[RuleSpec]] = {}
    for file, text, keys in _configurations():
        if "rules" in keys:
            found.setdefault(file, []).extend(parse(text, file).rules)
    for path in sorted(ROOT.glob("deploy/*.yaml")):
        found[str(path.relative_to(ROOT))] = [each.spec for each in load_rules(path).rules]
    return found


def audit_policies() -> list[tuple[str, list[AuditRuleSpec]]]:
    """Return all audit policies that are shown, each with the file that shows it."""
    return [
        (file, msgspec.convert(policy, list[AuditRuleSpec], dec_hook=decode))
        for file, _, keys in _configurations()
        if (policy := (keys | keys.get("audit", {})).get("policy")) is not None
    ]


def _configurations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the YAML mappings that are shown: the file, the text and the value of each."""
    for block in blocks("yaml"):
        yield block.page, block.text, parse_one(block.text, block.page).value
    for key in ("rules", "audit"):
        text = example.shown(key)
        yield "config.example.yaml", text, parse_one(text, "config.example.yaml").value
