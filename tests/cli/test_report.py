"""``criproxy report``: its forms, and input that is none."""

import base64
import gzip
import hashlib
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner, Result

from criproxy.cli import cli
from criproxy.cli.calls import report as module
from criproxy.cli.support import log_input
from criproxy.report.computing import call_table
from docs.generate.pages import ROOT
from tests.report.made import IMAGE, call, calls, record
from tests.report.tables import write
from tests.support.cassettes import cassette_of_capture

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
"""A name that would be markup."""


def report(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["report", *map(str, arguments)], input=stdin)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write(tmp_path / "criproxy.log", calls(200, 1))


class Page(HTMLParser):
    """The elements of a page with their attributes and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self.elements.append((f"/{tag}", {}, ""))  # takes the text behind it

    def handle_data(self, data: str) -> None:
        if self.elements:
            tag, attributes, text = self.elements[-1]
            self.elements[-1] = (tag, attributes, text + data)

    def named(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, text) for name, attributes, text in self.elements if name == tag]

    def policy(self) -> dict[str, str]:
        """The directives of its Content-Security-Policy."""
        (content,) = [
            attributes["content"] or ""
            for attributes, _ in self.named("meta")
            if attributes.get("http-equiv") == "Content-Security-Policy"
        ]
        return dict(each.strip().split(" ", 1) for each in content.split(";"))


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_page(tmp_path: Path) -> None:
    """Names of calls are text in the page, whose policy allows its own script and style alone."""
    lines = [
        call("RunPodSandbox", 0, 1, namespace=EVIL, pod=EVIL, pod_uid="u", message=EVIL),
        call("PullImage", 1, 2, service=IMAGE, namespace=EVIL, pod=EVIL, pod_uid="u", image=EVIL),
        call("ListPodSandbox", 4, executable=EVIL, code="INTERNAL", message=EVIL),
        call(EVIL, 5, service=EVIL),
    ]
    path, output = write(tmp_path / "criproxy.log", lines), tmp_path / "report.html"
    assert report(path, "-o", output).exit_code == 0
    text = output.read_text()
    assert "<img src=x" not in text
    page = Page(text)
    (data, script), (style,) = page.named("script"), page.named("style")
    assert page.policy() == {
        "default-src": "'none'",
        "script-src": digest(script[1]),
        "style-src": digest(style[1]),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert data[0] == {"id": "charts", "type": "application/json"}
    charts = json.loads(data[1])
    assert set(charts) == {"methods", "in_flight", "pod_starts", "polling", "sizes"}
    waterfall = charts["pod_starts"]["data"]["values"]
    assert [each["kind"] for each in waterfall] == ["sandbox", "pull"]
    assert waterfall[1]["subject"] == EVIL
    assert set(charts) == {
        (attributes["id"] or "").removeprefix("chart-")
        for attributes, _ in page.named("div")
        if attributes.get("class") == "chart"
    }
    cells = [text for _, text in page.named("td")]
    assert {EVIL, f"{EVIL}/{EVIL}"} <= set(cells)
    links = [attributes["href"] or "" for attributes, _ in page.named("a")]
    assert all(link.startswith("#") for link in links)
    assert {tag for tag, _, _ in page.elements} & {"link", "iframe", "object", "img"} == set()


def test_page_without_charts(tmp_path: Path) -> None:
    """The page of a compatibility report has no script, and allows none."""
    path = write(tmp_path / "criproxy.log", [call(EVIL, service=EVIL, code="UNIMPLEMENTED")])
    assert report(path, "--compat", "-o", tmp_path / "compat.html").exit_code == 0
    page = Page((tmp_path / "compat.html").read_text())
    assert page.named("script") == []
    assert page.policy()["script-src"] == "'none'"
    assert f"{EVIL}/{EVIL}" in [text for _, text in page.named("td")]


def test_markdown(tmp_path: Path) -> None:
    """Names of calls are text in Markdown, too, and cannot add cells, links or lines."""
    name = "a|b](http://x)\n# <b>*c*</b>"
    path = write(tmp_path / "criproxy.log", [call("ExecSync", pod=name, namespace="n")])
    lines = report(path).stdout.splitlines()
    (row,) = [line for line in lines if line.startswith("| 2026-11-28 10:00:00.000 | ExecSync")]
    assert r"n/a\|b\](http\://x)\\n\# \<b\>\*c\*\</b\>" in row
    assert len(re.findall(r"(?<!\\)\|", row)) == 8
    assert [line for line in lines if line.startswith("#")][:2] == ["# CRI calls", "## Source"]


def test_forms(tmp_path: Path, log: Path) -> None:
    """A form goes to standard output by its name, to a file by the extension or --format."""
    by_default = report(log).stdout
    assert by_default.startswith("# CRI calls\n")
    assert report(log, "-o", "md").stdout == by_default
    assert json.loads(report(log, "-o", "json").stdout)["source"]["calls"] == 200
    for name, start in (("r.md", "# CRI"), ("r.JSON", "{"), ("r.htm", "<!DOCTYPE html>")):
        assert report(log, "-o", tmp_path / name).stdout == ""
        assert (tmp_path / name).read_text().startswith(start)
    assert report(log, "-o", tmp_path / "r.txt", "--format", "md").exit_code == 0
    assert (tmp_path / "r.txt").read_text() == by_default
    assert not list(tmp_path.glob("*.tmp"))


def test_against(tmp_path: Path) -> None:
    """A comparison is told in words, in a table, in JSON and as a chart."""
    random = Random(1)
    before = [call("ExecSync", at, 0.01 * random.lognormvariate(0, 0.1)) for at in range(300)]
    after = [call("ExecSync", at, 0.02 * random.lognormvariate(0, 0.1)) for at in range(300)]
    files = write(tmp_path / "after.log", after), write(tmp_path / "before.log", before)
    arguments = (files[0], "--against", files[1])
    text = report(*arguments).stdout
    (said,) = [line for line in text.splitlines() if "slower: p50" in line]
    assert said in (ROOT / "docs/how-to/report.md").read_text(encoding="utf-8").splitlines()
    changes = json.loads(report(*arguments, "-o", "json").stdout)["comparison"]["changes"]
    assert {(each["quantile"], each["verdict"]) for each in changes} == {
        ("p50", "slower"),
        ("p95", "slower"),
    }
    assert report(*arguments, "-o", tmp_path / "r.html").exit_code == 0
    (data, _) = Page((tmp_path / "r.html").read_text()).named("script")
    points = json.loads(data[1])["comparison"]["data"]["values"]
    assert {each["what"] for each in points} == {"ExecSync p50", "ExecSync p95"}


def test_standard_input(log: Path) -> None:
    """Standard input gives the same figures as the file."""
    from_input = json.loads(report("-", "-o", "json", stdin=log.read_text()).stdout)
    from_file = json.loads(report(log, "-o", "json").stdout)
    assert from_input.pop("source")["files"] == ["-"]
    from_file.pop("source")
    assert from_input == from_file


def test_a_recording(tmp_path: Path, log: Path) -> None:
    """A report on a recording has the figures of its calls, also in comparison with a log; it is
    not read together with one, which may have the same calls."""
    cassette = cassette_of_capture(tmp_path / "calls.cassette", "kubelet-01")
    result = report(cassette, "-o", "json", "--against", log)
    assert (result.exit_code, result.stderr) == (0, "")
    made = json.loads(result.stdout)
    assert (made["source"]["log"], made["source"]["calls"]) == ("recording", 204)
    counts = {each["method"]: each["calls"] for each in made["methods"]}
    assert (counts["RunPodSandbox"], counts["StreamContainers"]) == (2, 50)
    assert made["notes"] == []
    streams = json.loads(report("--compat", cassette, "-o", "json").stdout)["features"]
    assert {each["method"]: each["state"] for each in streams}["StreamContainers"] == "in use"
    error = str(report(cassette, log).exception)
    assert error.startswith(f"{cassette} is a cassette, and {log} a log")
    whole = cassette.read_bytes()
    from_stdin = CliRunner().invoke(cli, ["report", "-", "-o", "json"], input=whole)
    assert json.loads(from_stdin.stdout)["source"]["calls"] == 204


def test_torn_lines(log: Path) -> None:
    """Lines that are no JSON are skipped, counted in the report, and the first is named."""
    first, second, *rest = log.read_text().splitlines(keepends=True)
    log.write_text("".join([first, "\n", second[:40] + "\n", '["x"]\n', *rest, '{"event": "ca']))
    result = report(log)
    assert result.stderr == f"criproxy: 3 lines skipped: no JSON; the first is {log}:3\n"
    assert "3 lines were skipped: they are no JSON." in result.stdout
    assert "199 calls" in result.stdout


def test_binary_lines(log: Path) -> None:
    """So are lines of other bytes, as a crash leaves behind."""
    log.write_bytes(b"\x00" * 4096 + b"\n" + log.read_bytes() + b'{"a": "\xff"}\n')
    assert "2 lines skipped: no JSON; the first is" in report(log).stderr


def message(*arguments: object, **more: Any) -> str:
    result = report(*arguments, **more)
    assert result.exception is not None
    return str(result.exception)


def test_other_files(tmp_path: Path, log: Path) -> None:
    """A file that is no log, or two logs of the same calls, is one error that names it."""
    console = tmp_path / "console.log"
    console.write_text("2026-11-22 [info] call method=Version\n")
    assert message(console).startswith(f"{console}:1: is no JSON, and no line is a call; name an")
    assert message("-", stdin="hello\n").startswith("-:1: is no JSON")
    ready = write(tmp_path / "ready.log", [{"event": "ready"}])
    assert message(ready).startswith(f"{ready}: no line is about a call; name a call log")
    audit = write(tmp_path / "audit.jsonl", map(record, calls(3, 1)))
    assert "which have the same calls; name one of them" in message(log, audit)
    assert "no such file" in message(tmp_path / "missing")
    assert "stands alone" in message("-", log)


def test_compressed_files(tmp_path: Path, log: Path) -> None:
    """A compressed file that is torn, or is not compressed, is one error that names it."""
    torn, plain = tmp_path / "torn.log.gz", tmp_path / "plain.log.gz"
    torn.write_bytes(gzip.compress(log.read_bytes())[:-100])
    plain.write_bytes(log.read_bytes())
    assert message(log, torn) == f"{torn}: is not a whole gzip file"
    assert message(log, plain) == f"{plain}: is not a whole gzip file"
    assert "decompress it" in message(write(tmp_path / "x.log.zst", []))


def test_long_lines(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line longer than any record is one error that names the file."""
    monkeypatch.setattr(call_table, "_LONGEST_LINES", (1 << 20, 1 << 20))
    long = tmp_path / "long.log"
    long.write_bytes(log.read_bytes() + b"x" * (33 << 20))
    assert message(long).startswith(f"{long}: a line is longer than 1 MiB; name a log")


def test_names_that_are_patterns(tmp_path: Path, log: Path) -> None:
    """A file whose name is a pattern is that file alone."""
    odd = tmp_path / "a[1]*'s.log"
    odd.write_bytes(log.read_bytes())
    write(tmp_path / "a1s.log", calls(5, 2))
    assert json.loads(report(odd, "-o", "json").stdout)["source"]["calls"] == 200


def test_wrong_options(tmp_path: Path, log: Path) -> None:
    """A wrong option is one error that says what to write."""
    assert "end it in .html, .md or .json, or use --format" in message(log, "-o", "r.txt")
    assert "there is no directory" in message(log, "-o", tmp_path / "no" / "r.md")
    assert "is a directory" in message(log, "-o", tmp_path, "--format", "md")
    assert "leave --against out" in message(log, "--compat", "--against", log)
    assert "leave --format out" in message(log, "-o", "md", "--format", "json")
    assert "is one of the logs" in message(log, "-o", log, "--format", "json")


def test_terminal(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is not written to a terminal."""
    monkeypatch.setattr(module, "_is_terminal", lambda: True)
    assert "-o report.html" in message(log, "-o", "html")


@pytest.mark.parametrize("name", ["duckdb", "vl_convert"])
def test_missing_libraries(log: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A missing library is one error that names the extra."""
    monkeypatch.setitem(sys.modules, name, None)
    assert "pip install 'criproxy[report]'" in message(log, "-o", "html")
    if name == "vl_convert":
        assert report(log).exit_code == 0


def test_progress(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is shown of large files on a terminal, and nowhere else."""
    shown: list[float] = []
    monkeypatch.setattr(module, "percentage_reporter", lambda size: shown.append)
    assert report(log).exit_code == 0
    assert shown
    monkeypatch.undo()
    assert "read" not in report(log).stderr
    monkeypatch.setattr(log_input, "_LARGE", 1)
    assert "read" not in report(log).stderr
