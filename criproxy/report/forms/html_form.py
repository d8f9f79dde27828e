"""Writes a report as one page that needs nothing else: charts, script and style are in it.

The page is built as a tree of elements and not of text, so that nothing of a call's can become
markup; its policy (CSP) allows the one script and the one style that it has, and no host.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Final
from xml.etree.ElementTree import Element, SubElement, tostring

from criproxy.errors import UnavailableError
from criproxy.report.figures import Compatibility, Report
from criproxy.report.forms.charts import charts_of
from criproxy.report.forms.section import Section, Table
from criproxy.report.forms.sections import sections_of, title_of

_RESOURCES: Final = files("criproxy.report.forms")


def require_charts() -> None:
    """Raise UnavailableError where the library for charts is missing."""
    try:
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise UnavailableError(
            "criproxy report needs vl-convert-python for HTML; install it with: "
            "pip install 'criproxy[report]', or ask for -o md or -o json"
        ) from error


def html_of(report: Report | Compatibility) -> str:
    """Return a report as an HTML page. :func:`require_charts` has to have passed."""
    charts = charts_of(report) if isinstance(report, Report) else {}
    sections = sections_of(report)
    style = (_RESOURCES / "page.css").read_text("utf-8")
    script = _script() if charts else ""
    page = Element("html", lang="en")
    head = SubElement(page, "head")
    SubElement(head, "meta", charset="utf-8")
    policy = {"http-equiv": "Content-Security-Policy", "content": _policy(script, style)}
    SubElement(head, "meta", policy)
    SubElement(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    SubElement(head, "title").text = title_of(report)
    SubElement(head, "style").text = style
    body = SubElement(page, "body")
    SubElement(body, "h1").text = title_of(report)
    navigation = SubElement(body, "nav")
    for section in sections[1:]:
        SubElement(navigation, "a", href=f"#{section.key}").text = section.title
    main = SubElement(body, "main")
    for section in sections:
        _add_section(main, section, section.key in charts)
    SubElement(SubElement(body, "footer"), "p").text = f"criproxy {report.criproxy}"
    if charts:
        data = SubElement(body, "script", id="charts", type="application/json")
        data.text = _inert(charts)
        SubElement(body, "script").text = script
    return "<!DOCTYPE html>\n" + tostring(page, "unicode", method="html") + "\n"


def _script() -> str:
    import vl_convert

    own = (_RESOURCES / "page.js").read_text("utf-8")
    script: str = vl_convert.javascript_bundle(own)
    if "</script" in script.lower():
        raise AssertionError("the bundle of Vega ends its own script element")
    return script


def _policy(script: str, style: str) -> str:
    scripts = f"'{_hash(script)}'" if script else "'none'"
    return (
        f"default-src 'none'; script-src {scripts}; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _inert(charts: Mapping[str, Any]) -> str:
    """Return JSON that cannot end the element that it stands in: a script's text has no escapes."""
    text = json.dumps(charts, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _add_section(parent: Element, section: Section, charted: bool) -> None:
    element = SubElement(parent, "section", id=section.key)
    SubElement(element, "h2").text = section.title
    for paragraph in section.text:
        SubElement(element, "p").text = paragraph
    if charted:
        SubElement(element, "div", {"class": "chart", "id": f"chart-{section.key}"})
    for table in section.tables:
        _add_table(element, table)


def _add_table(parent: Element, table: Table) -> None:
    element = SubElement(SubElement(parent, "div", {"class": "scroll"}), "table")
    numbers = [name.endswith(" #") for name in table.header]
    head = SubElement(SubElement(element, "thead"), "tr")
    _add_cells(head, "th", [name.removesuffix(" #") for name in table.header], numbers)
    body = SubElement(element, "tbody")
    for row in table.rows:
        _add_cells(SubElement(body, "tr"), "td", row, numbers)


def _add_cells(row: Element, tag: str, cells: Sequence[str], numbers: Sequence[bool]) -> None:
    for cell, number in zip(cells, numbers, strict=True):
        SubElement(row, tag, {"class": "number"} if number else {}).text = cell
