"""The reliability tests' own parts: sizes, the record of a load, the page."""

from pathlib import Path

import pytest

from bench.chaos.load import LONG, EndedCall, Record, describe
from bench.chaos.report import Report, Verdict, merge, render
from bench.chaos.sizes import QUICK, Sizes


def call(method: str = "Version", seconds: float = 0.1, code: str = "OK") -> EndedCall:
    return EndedCall(method, 0.0, seconds, code, "" if code == "OK" else "gone")


def report(name: str, measured: str = "0", holds: bool = True) -> Report:
    verdicts = [Verdict("no call fails", measured, holds)]
    return Report(name, name.title(), "About it.", ["calls"], [["7"]], verdicts, 3.0, "2 cores")


def test_sizes_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment names is changed, of the defaults or of the short form."""
    monkeypatch.setenv("CHAOS_RESTARTS", "7")
    assert Sizes.from_environment() == Sizes(restarts=7)
    assert Sizes.from_environment(QUICK).restarts == 7
    assert Sizes.from_environment(QUICK).kills == QUICK.kills


def test_a_size_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable."""
    monkeypatch.setenv("CHAOS_KILLS", "many")
    with pytest.raises(ValueError, match="CHAOS_KILLS=many"):
        Sizes.from_environment()


def test_record_counts_failed_and_hung_calls() -> None:
    """A call that its deadline ended is hung; long calls are not among the durations."""
    calls = [call(seconds=0.1), call(seconds=0.3), call(LONG, 20.0)]
    record = Record([*calls, call(code="UNAVAILABLE"), call(code="DEADLINE_EXCEEDED")])
    assert (len(record.failures), record.hung) == (2, 1)
    assert (record.worst, record.percentile(50)) == (0.3, 0.1)
    assert describe(record.failures) == (
        "1 x Version UNAVAILABLE: gone; 1 x Version DEADLINE_EXCEEDED: gone"
    )


def test_a_section_replaces_its_own_result_alone(tmp_path: Path) -> None:
    """A run of some sections keeps what others have found, in the page's order."""
    file = tmp_path / "work" / "chaos.json"
    order = ["restarts", "kills"]
    merge(file, [report("kills"), report("restarts", "1", holds=False)], order)
    merged = merge(file, [report("restarts", "2")], order)
    assert [(each.name, each.verdicts[0].measured) for each in merged] == [
        ("restarts", "2"),
        ("kills", "0"),
    ]


def test_page_has_all_claims_first() -> None:
    """The page begins with each claim and whether it holds; each section has its own table."""
    page = render([report("kills"), report("soak", "3", holds=False)])
    lines = [" ".join(line.split()) for line in page.splitlines()]
    assert "| soak | no call fails | 3 | NO |" in lines
    assert lines.index("| kills | no call fails | 0 | yes |") < lines.index("## Kills")
