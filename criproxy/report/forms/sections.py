"""The sections of a report of either kind, which every form for people writes. Pure."""

from criproxy.report.figures import Compatibility, Report
from criproxy.report.forms.call_sections import call_sections
from criproxy.report.forms.compatibility_sections import compatibility_sections
from criproxy.report.forms.section import Section


def sections_of(report: Report | Compatibility) -> list[Section]:
    """Return the sections of a report of either kind."""
    if isinstance(report, Compatibility):
        return compatibility_sections(report)
    return call_sections(report)


def title_of(report: Report | Compatibility) -> str:
    """Return the title of a report."""
    return "CRI compatibility" if isinstance(report, Compatibility) else "CRI calls"
