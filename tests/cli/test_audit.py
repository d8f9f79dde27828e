"""``criproxy audit``: verification of chains, and queries for records."""

import gzip
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from criproxy.audit.files.hash_chain import GENESIS, START, ChainLink, digest, link, link_after
from criproxy.audit.files.reader import files_of
from criproxy.cli import audit, cli
from criproxy.errors import CriproxyError, UsageError
from tests.support.waiting import LIMIT_SECONDS

ASIDE = "audit.jsonl.{:08}-20261123T101500Z"


def record(number: int, **more: Any) -> bytes:
    """A record such as the daemon writes."""
    return json.dumps(
        {
            "kind": "Event",
            "auditID": f"id-{number}",
            "stageTimestamp": f"2025-11-23T10:00:{number:02}.000000001Z",
            "method": "ExecSync",
            "code": "OK",
            "durationSeconds": number / 10,
            "caller": {"executable": "/usr/bin/agent", "uid": number, "kubelet": False},
            "pod": {"namespace": "shop", "name": f"web-{number}"},
            "requestObject": {"cmd": ["sh", str(number)]},
            **more,
        }
    ).encode()


def chained(records: Iterable[bytes], after: ChainLink = START) -> tuple[list[bytes], ChainLink]:
    lines = []
    for each in records:
        line, after = link(each, after)
        lines.append(line)
    return lines, after


def write(path: Path, lines: Iterable[bytes], end: bytes = b"\n") -> None:
    data = b"\n".join(lines) + end
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def ask(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(cli, ["audit", *map(str, arguments)], input=stdin)


def read_terminal(descriptor: int) -> bytes:
    """Read until the other side is closed, and close this one."""
    shown = b""
    with suppress(OSError), open(descriptor, "rb", buffering=0) as terminal:
        while data := terminal.read(4096):
            shown += data
    return shown


def refusal(*arguments: object) -> str:
    result = ask(*arguments)
    assert isinstance(result.exception, CriproxyError)
    return str(result.exception)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """An audit log of ten records, of which the first six were put aside in two files."""
    lines, _ = chained(record(number) for number in range(10))
    log = tmp_path / "audit.jsonl"
    write(tmp_path / (ASIDE.format(1) + ".gz"), lines[:3])
    write(tmp_path / ASIDE.format(2), lines[3:6])
    write(log, lines[6:])
    return log


class TestVerify:
    def test_whole_chain(self, log: Path) -> None:
        """A log is verified with its rotated files, and its last hash is printed."""
        result = ask("verify", log)
        last = log.read_bytes().splitlines()[-1]
        assert result.exit_code == 0
        assert result.output.splitlines() == [
            "OK: 10 records in 3 files, from 2025-11-23T10:00:00.000000001Z"
            " to 2025-11-23T10:00:09.000000001Z",
            "The last is record 10. Keep its hash elsewhere:",
            digest(last),
        ]
        assert ask("verify", log.parent).output == result.output
        everything = sorted(log.parent.iterdir(), reverse=True)
        assert ask("verify", *everything).output == result.output

    def test_standard_input(self, log: Path) -> None:
        """Lines come from standard input as well."""
        lines = log.read_bytes()
        result = ask("verify", "-", stdin=lines)
        assert result.output.startswith("OK: 4 records in 1 file, ")
        assert "The chain begins behind " in result.output

    @pytest.mark.parametrize(
        ("tamper", "place", "kind"),
        [
            (lambda lines: [lines[0], lines[1].replace(b"OK", b"KO"), *lines[2:]], 2, "changed"),
            (lambda lines: [lines[0], *lines[2:]], 2, "removed"),
            (lambda lines: [lines[1], lines[0], *lines[2:]], 1, "reordered"),
        ],
    )
    def test_tampering(self, log: Path, tamper: Any, place: int, kind: str) -> None:
        """The first record that was tampered with is named by file, line and id."""
        aside = log.parent / ASIDE.format(2)
        write(aside, tamper(aside.read_bytes().splitlines()))
        result = ask("verify", log)
        assert result.exit_code == 1
        first, second = result.output.splitlines()
        assert first.startswith(f"FAILED: {aside}:{place}: {kind}: ")
        assert re.search(r"auditID id-\d, at 2025-11-23T10:00:0\d", second)

    def test_file_that_is_gone(self, log: Path) -> None:
        """A whole file that was removed is found missing at the beginning of the next."""
        (log.parent / ASIDE.format(2)).unlink()
        result = ask("verify", log)
        assert result.exit_code == 1
        assert result.output.startswith(f"FAILED: {log}:1: removed: records 4 to 6, ")

    def test_torn_line(self, log: Path) -> None:
        """A line that a crash has torn is reported, and does not break the chain."""
        lines = log.read_bytes().splitlines()
        write(log, [*lines[:2], b'{"kind":"Ev', *lines[2:]])
        result = ask("verify", log)
        assert result.exit_code == 0
        assert f"{log}:3: torn by a crash, which is no tampering" in result.output

    def test_records_before_the_chain(self, log: Path) -> None:
        """Records from before the chain are counted, since nothing shows changes in them."""
        for path in (log.parent / (ASIDE.format(1) + ".gz"), log.parent / ASIDE.format(2)):
            path.unlink()
        after = link_after(record(0))
        assert after is not None
        write(log, [record(0), *chained([record(1), record(2)], after)[0]])
        result = ask("verify", log)
        assert result.exit_code == 0
        assert result.output.startswith("1 records before the chain begins: nothing holds them\n")

    def test_a_record_that_cannot_be_read(self, log: Path) -> None:
        """A record that was made unreadable is named by its place alone."""
        lines = log.read_bytes().splitlines()
        write(log, [lines[0], lines[1].replace(b'"', b"'"), *lines[2:]])
        result = ask("verify", log)
        assert result.exit_code == 1
        (line,) = result.output.splitlines()
        assert line.startswith(f"FAILED: {log}:2: changed: ")

    def test_progress(self, tmp_path: Path) -> None:
        """For a large log the part that has been read is shown on a terminal."""
        log = tmp_path / "audit.jsonl"
        write(log, chained(record(number, more="x" * (1 << 20)) for number in range(33))[0])
        terminal, stderr = pty.openpty()
        command = [sys.executable, "-m", "criproxy", "audit", "verify", str(log)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr) as process:
            os.close(stderr)
            shown = read_terminal(terminal)
            assert process.wait(LIMIT_SECONDS) == 0
        percentages = [int(each) for each in re.findall(rb"([ \d]{3}) % read\r", shown)]
        assert percentages == sorted(set(percentages))
        assert percentages[-1] == 100
        assert shown.endswith(b"\r")

    def test_hashes_that_were_kept(self, log: Path) -> None:
        """A kept hash has to be in the log, and the hash before the first record can be given."""
        kept = digest(log.read_bytes().splitlines()[1])
        assert ask("verify", log, "--contains", kept, "--from", GENESIS).exit_code == 0
        lines, _ = chained(record(number, code="KO") for number in range(10))
        for path in log.parent.iterdir():
            path.unlink()
        write(log, lines)
        assert ask("verify", log).exit_code == 0
        result = ask("verify", log, "--contains", kept)
        assert result.exit_code == 1
        assert result.output == f"FAILED: no record has the hash {kept}\n"
        result = ask("verify", log, "--from", "1" * 64)
        assert result.exit_code == 1
        assert result.output.startswith(f"FAILED: the chain begins behind {GENESIS}, not behind 1")

    def test_no_chain(self, tmp_path: Path) -> None:
        """A log without a chain is an error that names the option for one."""
        log = tmp_path / "audit.jsonl"
        write(log, [record(1), record(2)])
        assert refusal("verify", log) == (
            f"{log}: 2 records, and no chain; write it with chain: true in the sink's file"
        )

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        """Files that are not there, or not whole, are named."""
        assert refusal("verify", tmp_path).startswith(f"{tmp_path}: has no audit log")
        assert refusal("verify", tmp_path / "x").startswith(f"{tmp_path / 'x'}: no such file")
        broken = tmp_path / (ASIDE.format(1) + ".gz")
        broken.write_bytes(gzip.compress(record(1))[:-10])
        assert refusal("verify", broken).startswith(f"{broken}: is not a whole gzip file")


class TestQuery:
    def test_table(self, log: Path) -> None:
        """Records of all files are shown in a table, those that fit."""
        result = ask("query", log, "--where", "pod in ('web-1', 'web-8')")
        assert result.exit_code == 0
        called = ["agent", "ExecSync", "shop"]
        assert [line.split() for line in result.output.splitlines()] == [
            ["TIME", "EXECUTABLE", "METHOD", "NAMESPACE", "POD", "CONTAINER", "CODE", "DURATION"],
            ["2025-11-23", "10:00:01.000", *called, "web-1", "-", "OK", "0.100", "s"],
            ["2025-11-23", "10:00:08.000", *called, "web-8", "-", "OK", "0.800", "s"],
        ]

    @pytest.mark.parametrize(
        "names",
        [
            ("audit.jsonl.10.gz", "audit.jsonl.2", "audit.jsonl.1"),
            ("audit.jsonl-20251121.gz", "audit.jsonl-20251122", "audit.jsonl-20251123"),
            ("audit-20251121.jsonl.gz", "audit-20251122.jsonl", "audit-2025-11-23.jsonl"),
            ("audit.3.jsonl.gz", "audit.2.jsonl", "audit.1.jsonl"),
            ("audit.jsonl-20251121", "audit.jsonl.1", ASIDE.format(7)),
        ],
    )
    @pytest.mark.parametrize("whole", [True, False])
    def test_what_logrotate_renamed(
        self, tmp_path: Path, names: tuple[str, ...], whole: bool
    ) -> None:
        """A log, or its directory, includes the files that logrotate renamed, in their order."""
        for number, name in enumerate((*names, "audit.jsonl"), 1):
            data = record(number)
            (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        for other in ("other.jsonl.1", "audit.jsonl.bak", "audit-2.jsonl"):
            (tmp_path / other).write_bytes(b"" if whole else record(9))
        given = tmp_path if whole else tmp_path / "audit.jsonl"
        assert [each.name for each in files_of([tmp_path / "audit.jsonl"])] == [
            *names,
            "audit.jsonl",
        ]
        result = ask("query", given, "-o", "json")
        found = [json.loads(line)["auditID"] for line in result.output.splitlines()]
        assert sorted(found) == ["id-1", "id-2", "id-3", "id-4"]

    def test_compression_that_cannot_be_read(self, tmp_path: Path) -> None:
        """What logrotate compressed otherwise is named, and not silently left out."""
        (tmp_path / "audit.jsonl").write_bytes(record(1))
        (tmp_path / "audit.jsonl.1.xz").write_bytes(b"")
        assert refusal("query", tmp_path / "audit.jsonl").startswith(
            f"{tmp_path}/audit.jsonl.1.xz: xz cannot be read; decompress it"
        )

    @pytest.mark.parametrize("wide", [False, True])
    def test_terminal(self, log: Path, monkeypatch: pytest.MonkeyPatch, wide: bool) -> None:
        """On a terminal the table fits it: empty and alike columns go; --wide shows all."""
        monkeypatch.setattr(audit, "_is_terminal", lambda: True)
        monkeypatch.setenv("COLUMNS", "60")
        result = ask("query", log, *(["--wide"] if wide else []))
        header, *rows = result.stdout.splitlines()
        assert len(rows) == 10
        assert ("CONTAINER" in header) is wide
        if wide:
            assert result.stderr == ""
        else:
            assert all(len(line) <= 60 for line in (header, *rows))
            assert result.stderr == (
                "criproxy: the same in all: CONTAINER -, EXECUTABLE agent, "
                "METHOD ExecSync; --wide shows all\n"
            )

    def test_records(self, log: Path) -> None:
        """With -o json the records come as they are, one a line."""
        result = ask("query", log, "-o", "json", "--where", "request->>'$.cmd[1]' = '5'")
        aside = log.parent / ASIDE.format(2)
        assert json.loads(result.output) == json.loads(aside.read_bytes().splitlines()[2])

    def test_times(self, log: Path) -> None:
        """--since and --until bound the records' times."""
        bounds = ("--since", "2025-11-23T10:00:03Z", "--until", "2025-11-23T12:00:05+02:00")
        result = ask("query", log, *bounds, "-o", "json")
        found = [json.loads(line)["auditID"] for line in result.output.splitlines()]
        assert found == ["id-3", "id-4"]
        assert refusal("query", log, "--since", "yesterday").startswith(
            "--since: 'yesterday' is no time; write how long ago (90s, 1h)"
        )

    def test_recent(self, log: Path) -> None:
        """--since takes how long ago."""
        write(log, [record(1, stageTimestamp="2200-01-01T00:00:00.000000000Z")])
        result = ask("query", log, "--since", "1h", "-o", "json")
        assert len(result.output.splitlines()) == 1

    def test_whole_question(self, log: Path) -> None:
        """--sql asks anything of the view audit; what comes is a table, or JSON."""
        sql = "select method, count(*) as calls, max(uid) as uid from audit group by all"
        assert ask("query", log, "--sql", sql).output.splitlines() == [
            "METHOD    CALLS  UID",
            "ExecSync  10     9",
        ]
        result = ask("query", log, "--sql", sql, "-o", "json")
        assert json.loads(result.output) == {"method": "ExecSync", "calls": 10, "uid": 9}

    def test_limit(self, log: Path) -> None:
        """--limit bounds the rows, and says that there are more."""
        result = ask("query", log, "--limit", "4")
        assert len(result.stdout.splitlines()) == 5
        assert result.stderr == "criproxy: the first 4 of more; --limit 0 shows all\n"

    def test_torn_lines(self, log: Path) -> None:
        """Torn lines, and what is no record, are passed over and counted."""
        with log.open("ab") as file:
            file.write(b'42\n{"kind":"Ev')
        result = ask("query", log, "-o", "json")
        assert len(result.stdout.splitlines()) == 10
        assert result.stderr == "criproxy: 2 lines skipped that are no records\n"

    def test_control_characters(self, log: Path) -> None:
        """What a record says does nothing to the terminal."""
        write(log, [record(1, method="\x1b[31mred")])
        result = ask("query", log, "--where", "method <> 'ExecSync'")
        assert "\x1b" not in result.output
        assert "\\x1b[31mred" in result.output

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--where", "nosuch = 1"), 'Referenced column "nosuch" not found'),
            (("--where", "method ="), "syntax error"),
            (("--sql", "select * from read_csv('/etc/passwd')"), "disabled by configuration"),
            (("--sql", "copy audit to 'out.csv'"), "one SELECT is asked for"),
            (("--sql", "select 1", "--since", "1h"), "--sql is a whole question"),
        ],
    )
    def test_questions_that_are_none(
        self, log: Path, options: tuple[str, ...], message: str
    ) -> None:
        """A question that cannot be answered, or reaches for other files, is one clear error."""
        result = ask("query", log, *options)
        assert isinstance(result.exception, UsageError)
        assert message in str(result.exception)
        assert "\n" not in str(result.exception)

    @pytest.mark.parametrize("option", ["--where", "--sql"])
    @pytest.mark.parametrize("ending", ["", ", use_tmp_file false"])
    def test_log_is_not_written(self, log: Path, option: str, ending: str) -> None:
        """No question writes the log that it is asked about, however it is put."""
        before = log.read_bytes()
        copy = f"copy (select 1 as a) to '{log}' (format json{ending})"
        asked = copy if option == "--sql" else f"true); {copy}; select (1"
        result = ask("query", log, option, asked)
        assert isinstance(result.exception, UsageError)
        assert log.read_bytes() == before

    def test_columns_are_told(self, log: Path) -> None:
        """An unknown column is an error that names the columns."""
        assert "the columns are time, began, " in refusal("query", log, "--where", "nosuch = 1")
        assert "duration" in ask("query", "--help").output

    def test_without_duckdb(self, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without DuckDB the error names the command that installs it."""
        monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
        assert refusal("query", log).endswith("install it with: pip install 'criproxy[query]'")
