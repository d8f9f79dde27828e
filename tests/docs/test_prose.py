"""No text is repeated, and all links have a target."""

import re
from collections import defaultdict
from pathlib import Path

import pytest

from docs.generate.__main__ import PAGES
from docs.generate.markdown import anchor
from docs.generate.pages import ROOT, paths
from tests.docs.pages import prose

LONG = 60
"""Characters from which on a sentence says something that may change."""

README_LIMIT = 12 << 10
"""Bytes of a README that is read to its end."""

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def sentences(text: str) -> set[str]:
    """The sentences of a page: of paragraphs, items of lists, and cells of tables."""
    found = set()
    for paragraph in re.split(r"\n\s*\n|\n(?=[-|#] ?)|(?<!\\)\|", prose(text)):
        words = re.sub(r"\s+", " ", LINK.sub("", paragraph)).strip(" -#")
        found |= {each for each in re.split(r"(?<=[.!?:;]) ", words) if len(each) > LONG}
    return found


def test_no_sentence_stands_in_two_places() -> None:
    """A sentence of some length is on one page alone."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path in paths():
        for each in sentences(path.read_text(encoding="utf-8")):
            places[each].append(str(path.relative_to(ROOT)))
    assert {each: pages for each, pages in places.items() if len(pages) > 1} == {}


def test_sentences_are_found() -> None:
    """The sentences of paragraphs, lists and tables are compared, those of code are not."""
    long = "a sentence that is long enough to be compared with those of all of the other pages"
    text = f"One {long}.\nTwo {long}.\n\n- Three {long}\n\n| Four {long} | x |\n\n"
    text += f"```\nFive {long}\n```\n"
    assert {each.split()[0] for each in sentences(text)} == {"One", "Two", "Three", "Four"}


def test_readme_is_short() -> None:
    """The README is short enough to be read."""
    assert len((ROOT / "README.md").read_bytes()) <= README_LIMIT


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings."""
    text = prose(path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {anchor(heading) for heading in headings}


@pytest.mark.parametrize("path", paths(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """Each link to a file of the repository leads to one, and to a heading of it."""
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        file, _, heading = link.partition("#")
        if "://" in link:
            continue
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


def test_every_page_is_in_the_navigation() -> None:
    """The navigation names each page of docs/."""
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [
        *(
            path.relative_to(ROOT / "docs")
            for path in paths()
            if path.is_relative_to(ROOT / "docs")
        ),
        *(name for name in PAGES if name.endswith(".md")),
    ]
    assert [page for page in pages if f"- {page}\n" not in navigation] == []
