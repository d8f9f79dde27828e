"""From rounds to ratios, verdicts and the page."""

import pytest

from bench.audited import DEFAULT, ENVOY_LOG, KUBELET, TRACES, TRACES_AND_CAPTURE
from bench.contenders import DIRECT, EVERYTHING_ON
from bench.criproxy_config import AuditCounts, CallCounts
from bench.loads import Figures
from bench.processes import MIB
from bench.report import render
from bench.results import Memory, Results, Soak, summarise
from bench.targets import unaccounted, verdicts

BROKEN = Figures(10, *[float("nan")] * 5, errors={"refused": 10}, goaways=0)


def figures(p50: float, rate: float = 1000.0, **changes) -> Figures:
    fields = {"errors": {}, "goaways": 0} | changes
    return Figures(10, p50, 2 * p50, rate, 10.0, 1.0, **fields)


@pytest.fixture
def results() -> Results:
    return Results(
        began="today",
        command="python -m bench",
        facts={"cores": "2"},
        settings={EVERYTHING_ON: "everything on", "socat": "as it comes"},
        titles={"go-1": "one at a time"},
        figures={
            "go-1": {
                DIRECT: [figures(100), figures(200), figures(100)],
                EVERYTHING_ON: [figures(130), figures(230), figures(900)],
                "socat": [figures(120), figures(220), figures(120)],
            }
        },
    )


def test_added_latency_is_taken_within_a_round(results: Results) -> None:
    """What a contender adds is against direct in the same round, and the median of the rounds."""
    summary = summarise(results, "go-1", EVERYTHING_ON)
    assert summary is not None
    assert summary.added_p50_us == 30
    assert summary.p50_us == 230


def test_a_broken_round_is_counted_and_left_out_of_the_medians(results: Results) -> None:
    """A round that broke off gives its errors, and no figure."""
    results.figures["go-1"]["socat"][1] = BROKEN
    summary = summarise(results, "go-1", "socat")
    assert summary is not None
    assert summary.added_p50_us == 20
    assert summary.errors == {"refused": 10}


def test_nothing_is_summed_up_from_nothing(results: Results) -> None:
    """A contender that never answered, or was left out, has no summary."""
    results.figures["go-1"]["socat"] = [BROKEN] * 3
    assert summarise(results, "go-1", "socat") is None
    assert summarise(results, "go-16", "socat") is None
    assert "no call was answered" in render(results, "")


def test_a_target_says_by_how_much_it_is_missed(results: Results) -> None:
    """A ratio within its limit is met; beyond it, the difference is given; without it, neither."""
    met = verdicts(results)[0]
    assert (met.measured, met.met, met.missed_by) == ("1.50 x", True, "")
    results.figures["go-1"][EVERYTHING_ON] = [figures(150), figures(240), figures(140)]
    missed = verdicts(results)[0]
    assert (missed.measured, missed.met, missed.missed_by) == ("2.00 x", False, "0.40 x (25%)")
    assert verdicts(results)[1].met is None


def test_verdicts_on_memory(results: Results) -> None:
    """There are verdicts on idle, final and grown memory; growth counts from the first tenth on."""
    samples = [(100, 40 * MIB), (500, 41 * MIB), (1000, 43 * MIB)]
    results.soak = Soak(30 * MIB, samples, 1000.0, {}, CallCounts(1001, 1001))
    idle, after, growth = verdicts(results)[-3:]
    assert (idle.measured, idle.met) == ("30.00 MiB", True)
    assert (after.measured, after.met) == ("43.00 MiB", True)
    assert (growth.measured, growth.met, growth.missed_by) == (
        "3.00 MiB",
        False,
        "1.00 MiB (50%)",
    )


def test_verdicts_on_rules(results: Results) -> None:
    """Rules that match nothing are measured against no rules, a rewrite against grpc.aio's."""
    results.figures["rules-1"] = {
        DIRECT: [figures(100)],
        EVERYTHING_ON: [figures(200)],
        "criproxy-unmatched": [figures(220)],
        "criproxy-request": [figures(300)],
        "grpc.aio-request": [figures(1100)],
    }
    unmatched, rewritten = [
        one for one in verdicts(results) if "rule" in one.target or "rewr" in one.target
    ]
    assert (unmatched.measured, unmatched.met, unmatched.missed_by) == (
        "1.20 x",
        False,
        "0.10 x (9%)",
    )
    assert (rewritten.measured, rewritten.met) == ("0.20 x", True)


def test_the_page_says_what_rules_cost(results: Results) -> None:
    """A denial is measured by its whole latency, what is missing is left open, hits are given."""
    results.titles["rules-1"] = "rules"
    results.figures["rules-1"] = {
        DIRECT: [figures(100)],
        "criproxy-deny": [figures(60)],
        "envoy-abort-100": [figures(80)],
    }
    results.rule_counts["criproxy-deny"] = {"matches rule=deny": 1100}
    page = render(results, "")
    row = next(line for line in page.splitlines() if line.startswith("| a denial"))
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        "a denial",
        "p50",
        "criproxy-deny",
        "envoy-abort-100",
        "0.75 x",
    ]
    assert "| a request rewritten            | added p50 | criproxy-request   | criproxy" in page
    assert "- criproxy-deny: 1,100 matches rule=deny" in page


@pytest.fixture
def audited(results: Results) -> Results:
    """Return results of the audit section, in which one criproxy has lost a record."""
    for load in ("audit-1", "audit-16"):
        results.titles[load] = "audit"
        results.figures[load] = {
            DIRECT: [figures(100, 2000)],
            EVERYTHING_ON: [figures(200, 1000)],
            KUBELET: [figures(230, 700)],
            DEFAULT: [figures(300, 500)],
            TRACES: [figures(215, 840)],
            TRACES_AND_CAPTURE: [figures(340, 400)],
            "envoy": [figures(300, 800)],
            ENVOY_LOG: [figures(340, 600)],
        }
    results.recorded["Version, kubelet"] = AuditCounts(1200, 0, 0, {})
    results.recorded["Version, default"] = AuditCounts(1200, 1200, 1100, {"intake_full": 99})
    return results


def test_verdicts_on_the_audit_log(audited: Results) -> None:
    """Added latency, throughput (both of the kubelet's reads) and the growth have limits."""
    samples = [(100, 50 * MIB), (1000, 51 * MIB)]
    audited.audited_soak = Soak(40 * MIB, samples, 1000.0, {}, CallCounts(1000, 1000))
    latency, throughput, growth = [one for one in verdicts(audited) if "audit" in one.target]
    assert (latency.limit, latency.measured, latency.missed_by) == (
        "at most 1.25 x",
        "1.30 x",
        "0.05 x (4%)",
    )
    assert (throughput.limit, throughput.measured, throughput.missed_by) == (
        "at least 0.8 x",
        "0.70 x",
        "0.10 x (13%)",
    )
    assert (growth.measured, growth.met) == ("1.00 MiB", True)


def test_verdicts_on_traces(audited: Results) -> None:
    """Added latency and throughput have limits."""
    latency, throughput, *_ = [one for one in verdicts(audited) if "traces" in one.target]
    assert (latency.limit, latency.measured, latency.met) == ("at most 1.2 x", "1.15 x", True)
    assert (throughput.limit, throughput.measured, throughput.met) == (
        "at least 0.85 x",
        "0.84 x",
        False,
    )


def test_verdicts_on_a_ring(audited: Results) -> None:
    """Beside added latency and throughput, memory has a limit, of what processes share once."""
    audited.memory["criproxy"] = Memory(40 * MIB, 45 * MIB, 50 * MIB)
    audited.memory[TRACES_AND_CAPTURE] = Memory(90 * MIB, 200 * MIB, 95 * MIB)
    latency, throughput, memory = [
        one for one in verdicts(audited) if one.target.startswith("traces and a ring")
    ]
    assert (latency.measured, latency.met) == ("2.40 x", False)
    assert (throughput.measured, throughput.met) == ("0.40 x", False)
    assert (memory.limit, memory.measured, memory.missed_by) == (
        "at most 40 MiB more",
        "45.00 MiB more",
        "5.00 MiB more (12%)",
    )


def test_a_call_without_record_is_named(audited: Results) -> None:
    """Logs that do not add up are named, with what is there, those of the long run as well."""
    [wrong] = unaccounted(audited)
    assert wrong.startswith("Version, default: 1,200 to record, 1,100 recorded")
    lost = AuditCounts(1000, 1000, 999, {})
    audited.audited_soak = Soak(0, [(1000, MIB)], 1.0, {}, CallCounts(1000, 1000), lost)
    assert [one.partition(":")[0] for one in unaccounted(audited)] == [
        "Version, default",
        "the long run",
    ]


def test_the_page_says_what_an_audit_log_costs(audited: Results) -> None:
    """Each is beside the one without, what was not measured is open, records are counted."""
    page = render(audited, "")
    table = page.partition("## What an audit log and traces cost")[2]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert ["an access log", "added p50", "envoy-log", "envoy", "1.20 x", "1.20 x"] in rows
    assert ["an access log", "calls/s", "envoy-log", "envoy", "0.75 x", "0.75 x"] in rows
    unmeasured = ["RequestResponse on everything", "calls/s", "criproxy-audit-everything"]
    assert [*unmeasured, "criproxy", "-", "-"] in rows
    assert "1,100 records in the files, dropped: 99 intake_full" in table
    assert "(Version, default: 1,200 to record" in table


def test_the_page_has_tables_and_notes(results: Results) -> None:
    """The page names every contender, each error and what is left out, and ends with the notes."""
    results.skipped["envoy"] = "not installed: make bench"
    results.figures["go-1"]["socat"][0] = figures(120, errors={"grpc-status 5": 2}, goaways=1)
    page = render(results, "## Notes\n\nBy hand.\n")
    assert "- envoy: not installed: make bench" in page
    assert "2 x grpc-status 5; 1 x GOAWAY" in page
    assert page.endswith("## Notes\n\nBy hand.\n")
    rows = [line for line in page.splitlines() if line.startswith(("| direct", "| socat"))]
    assert len(rows) == 2
    assert len({len(row) for row in rows}) == 1
